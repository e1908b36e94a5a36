"""Muse's super-resolution model: 512 px pictures as 64x64 tokens from 16x16 tokens and text (section 2.4).

The paper gives its size, 268M parameters; width and depths are this project's choice to come to that (272M).
"""

import ml_collections

from configs.muse import base_3b


def get_config() -> ml_collections.ConfigDict:
    """The experiment: trained as the base model is."""
    config = base_3b.get_config()
    config.task = "superres"
    config.superres_tokenizer = "runs/vqgan_f8_512"
    config.model = {
        "vocab_size": 8192,
        "low_vocab_size": 8192,
        "grid": (64, 64),
        "low_grid": (16, 16),
        "width": 768,
        "depth": 24,
        "low_depth": 4,
        "heads": 12,
        "mlp_dim": 3072,
        "text_dim": 4096,  # T5-XXL
        "block": 8,  # windows of 8x8 tokens, and 8x8 tokens that lie 8 apart
        "dropout": 0.1,
        "remat": True,
        "dtype": "bfloat16",
    }
    config.data.image_size = 512
    config.data.superres_factor = 2  # the low-resolution picture has half the side
    config.decoding.num_steps = 8
    config.mesh.fsdp = 8
    config.total_steps = 1_000_000
    return config
