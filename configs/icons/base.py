"""Muse's base transformer on icons at 64 px: 8x8 positions of two tokens each, from a caption.

First train configs/icons/vqgan64.py in runs/icons/vqgan64.

python -m experiments.train --config=configs/icons/base.py --workdir=runs/icons/base
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "base"
    config.tokenizer = "runs/icons/vqgan64"
    config.model = {
        "vocab_size": 256,
        "groups": 2,
        "grid": (8, 8),
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 1024,
        "text_dim": 384,
        "dropout": 0.1,
        "dtype": "float32",
    }
    config.loss = {
        "label_smoothing": 0.0,
        "text_dropout": 0.1,
    }
    config.data = {
        "source": "precomputed:runs/icons/images/64",
        "split": "train",
        "eval_split": "heldout_pairs",
        "text_encoder": "minilm",
        "batch_size": 64,
        "image_size": 64,
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
        "num_steps": 24,
        "guidance_scale": 2.0,
        "temperature": 0.8,
        "choice_temperature": 2.0,
    }
    config.total_steps = 40_000
    config.log_every = 50
    config.eval_every = 1_000
    config.preview_every = 1_000
    config.checkpoint_every = 500
    return config
