"""Base transformer of a few thousand weights on the shipped checkpoint's tokens: seconds on a CPU.

python -m experiments.train --config=configs/smoke/base.py --workdir=runs/base
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "base"
    config.tokenizer = "emoji"
    config.model = {
        "vocab_size": 4096,
        "grid": (8, 8),
        "width": 32,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 64,
        "text_dim": 384,
        "dropout": 0.1,
    }
    config.data = {
        "batch_size": 8,
        "image_size": 64,
        "workers": 0,
    }
    config.optim = {
        "lr": 1e-3,
        "warmup_steps": 2,
    }
    config.total_steps = 4
    config.log_every = 1
    config.eval_every = 0
    config.eval_batches = 1
    config.preview_every = 0
    config.checkpoint_every = 2
    return config
