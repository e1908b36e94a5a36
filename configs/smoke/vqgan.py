"""VQGAN of a few thousand weights, to test all parts of training: seconds on a CPU.

python -m experiments.train --config=configs/smoke/vqgan.py --workdir=runs/vqgan
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "filters": 8,
        "multipliers": (1, 2),
        "num_res_blocks": 1,
        "patch": 2,
        "codebook_size": 16,
        "embed_dim": 4,
    }
    config.loss = {
        "reconstruction": 1.0,
        "perceptual": 0.0,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.01,
        "adversarial": 0.0,
    }
    config.data = {
        "batch_size": 4,
        "image_size": 16,
        "workers": 0,
    }
    config.optim = {
        "name": "adam",
        "lr": 2e-4,
        "warmup_steps": 2,
    }
    config.total_steps = 4
    config.log_every = 1
    config.eval_every = 0
    config.eval_batches = 1
    config.preview_every = 0
    config.checkpoint_every = 2
    return config
