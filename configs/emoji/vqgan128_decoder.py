"""The decoder of configs/emoji/vqgan128.py trained on, on whole pictures; its encoder and its codes stay.

Crops have an edge around every 8x8 codes, where whole pictures have one around 16x16.
"""

import ml_collections

from configs.emoji import vqgan128


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan128.get_config()
    config.task = "vqgan_decoder"
    config.tokenizer = config.init_from = "runs/vqgan128"
    config.data.update(augment="none", batch_size=8, image_size=128)
    config.optim.update(warmup_steps=50, ema=0.995)
    config.total_steps = 1_400
    return config
