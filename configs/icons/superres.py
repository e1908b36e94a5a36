"""Muse's super-resolution transformer on icons: the 8x8 positions at 64 px to the 16x16 at 128 px.

First train configs/icons/vqgan64.py and vqgan128.py in runs/icons.

python -m experiments.train --config=configs/icons/superres.py --workdir=runs/icons/superres
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "superres"
    config.tokenizer = "runs/icons/vqgan64"
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
    config.loss = {
        "label_smoothing": 0.0,
        "text_dropout": 0.1,
        "low_noise": 0.2,
    }
    config.data = {
        "source": "precomputed:runs/icons/images/128",
        "split": "train",
        "eval_split": "heldout_pairs",
        "text_encoder": "minilm",
        "batch_size": 16,
        "image_size": 128,
        "superres_factor": 2,
    }
    config.optim = {
        "name": "muon",
        "lr": 3e-3,
        "b1": 0.9,
        "b2": 0.98,
        "weight_decay": 0.03,
        "warmup_steps": 200,
        "ema": 0.995,
    }
    config.sampling = {
        "num_steps": 16,
        "guidance_scale": 0.5,
        "temperature": 0.5,
        "choice_temperature": 1.0,
    }
    config.total_steps = 40_000
    config.log_every = 50
    config.eval_every = 1_000
    config.preview_every = 1_000
    config.checkpoint_every = 500
    return config
