"""Muse's super-resolution transformer on emoji: the 8x8 tokens at 64 px to 16x16 tokens at 128 px.

python -m experiments.train --config=configs/emoji/superres.py --workdir=runs/superres
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "superres"
    config.tokenizer = "runs/vqgan64_decoder"
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
    config.loss = {
        "label_smoothing": 0.0,
        "text_dropout": 0.1,
    }
    config.data = {
        "source": "emoji",
        "split": "train",
        "eval_split": "heldout_pairs",
        "features": "runs/features/superres",  # "" computes tokens and text states in every step
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
        "ema": 0.98,
    }
    config.sampling = {
        "num_steps": 16,
        "guidance_scale": 0.5,
        "temperature": 0.3,
        "choice_temperature": 1.0,
    }
    config.total_steps = 2150
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 500
    config.checkpoint_every = 250
    return config
