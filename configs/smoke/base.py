"""Seconds on a CPU: a base transformer of a few thousand weights over the shipped checkpoint's tokens."""

import ml_collections

from muse_jax.checkpointing.source import tokenizer_module
from muse_jax.training import default_config


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = default_config()
    config.task = "base"
    config.tokenizer = "emoji"
    tokenizer = tokenizer_module("tokenizer", config.tokenizer)
    side = config.data.image_size // tokenizer.downsampling
    config.model = {
        "vocab_size": tokenizer.codebook_size,
        "grid": (side, side),
        "width": 32,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 64,
        "text_dim": 384,
        "dropout": 0.1,
    }
    config.data.update({"batch_size": 8, "image_size": 64, "workers": 0})
    config.optim.update({"lr": 1e-3, "warmup_steps": 2})
    config.total_steps = 4
    config.log_every = 1
    config.eval_batches = 1
    config.eval_every = config.preview_every = 0
    config.checkpoint_every = 2
    return config
