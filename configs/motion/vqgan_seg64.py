"""NUWA's tokenizer of sketches at 64 px, black lines on white: 8x8 positions of one of 1,024 codes.

First `python -m experiments.prepare_images --source=motion/sketches/x2 --size=64 --captions=1
--splits=train,heldout_pairs,validation --out=runs/motion/sketches`.

python -m experiments.train --config=configs/motion/vqgan_seg64.py --workdir=runs/motion/vqgan_seg64
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan_seg"
    config.model = {
        "palette": ("#000000", "#ffffff"),
        "filters": 32,
        "multipliers": (1, 2, 4),
        "num_res_blocks": 1,
        "patch": 2,
        "codebook_size": 1024,
        "embed_dim": 64,
        "dtype": "float32",
    }
    config.loss = {
        "cross_entropy": 1.0,
        "codebook": 1.0,
        "commitment": 0.25,
        "restart_every": 50,
    }
    config.data = {
        "source": "precomputed:runs/motion/sketches/64",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 16,
        "image_size": 64,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 100,
        "ema": 0.998,
    }
    config.total_steps = 4000
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 1000
    config.checkpoint_every = 250
    return config
