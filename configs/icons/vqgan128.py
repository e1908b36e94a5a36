"""The f8 tokenizer of the icons at 128 px: the network of vqgan64.py over 16x16 positions."""

import ml_collections

from configs.icons import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.data.update(source="precomputed:runs/icons/images/128", batch_size=8, image_size=128)
    return config
