"""Muse's super-resolution transformer on icons: the 8x8 positions at 64 px to the 16x16 at 128 px.

First train configs/icons/vqgan64.py and vqgan128.py in runs/icons.
"""

import ml_collections

from configs.icons import base


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = base.get_config()
    config.task = "superres"
    config.superres_tokenizer = "runs/icons/vqgan128"
    config.model = {
        "vocab_size": 256,
        "low_vocab_size": 256,
        "groups": 2,
        "low_groups": 2,
        "grid": (16, 16),
        "low_grid": (8, 8),
        "width": 256,
        "depth": 4,
        "low_depth": 1,
        "heads": 4,
        "mlp_dim": 1024,
        "text_dim": 384,
        "block": 4,
        "dropout": 0.1,
        "dtype": "float32",
    }
    config.loss.low_noise = 0.2
    config.data.update(
        source="precomputed:runs/icons/images/128", batch_size=16, image_size=128, superres_factor=2
    )
    config.decoding.update(num_steps=16, guidance_scale=0.5, temperature=0.5, choice_temperature=1.0)
    return config
