"""Trains the toy system over the shipped tokenizer of 64 px emoji.

python -m experiments.train --config=tests/toy/config.py --workdir=runs/toy
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "tests.toy"
    config.task = "bag_of_words"
    config.tokenizer = "emoji"
    config.model = {"vocab_size": 4096, "grid": (8, 8)}
    config.data = {"batch_size": 8, "image_size": 64, "workers": 0}
    config.optim = {"lr": 1e-2, "warmup_steps": 1}
    config.total_steps = 4
    config.log_every = 1
    config.eval_every = 4
    config.eval_batches = 1
    config.preview_every = 4
    config.checkpoint_every = 2
    return config
