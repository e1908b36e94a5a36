"""Iterative super-resolution of emoji: 24x24 tokens of 192 px, refined by LoPAR, from configs/emoji/coglm.py.

It uses the features of configs/emoji/coglm_direct.py, hence 31 text pieces where the paper has 16.

python -m experiments.train --config=configs/emoji/coglm_iterative.py --workdir=runs/coglm_iterative
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "iterative_superres"
    config.init_from = "runs/coglm"
    config.tokenizer = "runs/vqgan64"
    config.text_pieces = "runs/text_pieces/emoji.model"
    config.model = {
        "vocab_size": 5099,  # 4096 codes, 1000 pieces, 3 special tokens
        "grid": (24, 24),
        "text_length": 31,
        "image_position": 32,
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 1024,
        "window": (9, 5),
        "dropout": 0.0,
        "dtype": "float32",
    }
    config.data = {
        "source": "emoji/px192",
        "split": "train",
        "eval_split": "heldout_pairs",
        "features": "runs/features/coglm192",  # "" computes tokens and pieces in every step
        "batch_size": 8,
        "image_size": 192,
        "superres_factor": 3,
    }
    config.optim = {
        "name": "muon",
        "lr": 3e-3,
        "b1": 0.9,
        "b2": 0.98,
        "weight_decay": 0.03,
        "warmup_steps": 100,
        "ema": 0.98,
    }
    config.sampling = {
        "temperature": 0.5,
    }
    config.total_steps = 1_200
    config.log_every = 50
    config.eval_every = 250
    config.preview_every = 250
    config.checkpoint_every = 100
    return config
