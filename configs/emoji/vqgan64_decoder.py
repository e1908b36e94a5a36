"""The decoder of configs/emoji/vqgan64.py trained on; its encoder and its codes stay (Muse, section 2.8)."""

import ml_collections

from configs.emoji import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.task = "vqgan_decoder"
    config.tokenizer = config.init_from = "runs/vqgan64"
    config.optim.update(warmup_steps=50, ema=0.995)
    config.total_steps = 1_000
    return config
