"""Muse's super-resolution transformer on emoji: the 8x8 tokens at 64 px to 16x16 tokens at 128 px."""

import ml_collections

from configs.emoji import base


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = base.get_config()
    config.task = "superres"
    config.superres_tokenizer = "runs/vqgan128_decoder"
    config.model = {
        "vocab_size": 4096,
        "low_vocab_size": 4096,
        "grid": (16, 16),
        "low_grid": (8, 8),
        "width": 192,
        "depth": 4,
        "low_depth": 1,
        "heads": 3,
        "mlp_dim": 768,
        "text_dim": 384,
        "block": 4,
        "dtype": "float32",
    }
    config.data.features = "runs/features/superres"
    config.data.batch_size = 16
    config.data.image_size = 128
    config.data.superres_factor = 2
    config.decoding.update(num_steps=16, guidance_scale=0.5, temperature=0.3, choice_temperature=1.0)
    config.total_steps = 2_150
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 500
    config.checkpoint_every = 250
    return config
