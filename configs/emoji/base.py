"""Muse's base transformer on 64 px emoji: 8x8 tokens from a caption.

First train configs/emoji/vqgan64.py in runs/vqgan64 and vqgan64_decoder.py in runs/vqgan64_decoder, then
`python -m experiments.prepare_features --config=configs/emoji/base.py --out=runs/features/base`.

python -m experiments.train --config=configs/emoji/base.py --workdir=runs/base
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "base"
    config.tokenizer = "runs/vqgan64_decoder"
    config.model = {
        "vocab_size": 4096,
        "grid": (8, 8),
        "width": 256,
        "depth": 4,
        "heads": 4,
        "mlp_dim": 1024,
        "text_dim": 384,
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
        "features": "runs/features/base",  # "" computes tokens and text states in every step
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
        "ema": 0.98,
    }
    config.sampling = {
        "num_steps": 48,
        "guidance_scale": 1.0,
        "temperature": 0.6,
        "choice_temperature": 1.0,
    }
    config.total_steps = 2450
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 500
    config.checkpoint_every = 250
    return config
