"""CogLM on 64 px emoji: 8x8 image tokens and their caption in one vocabulary.

First `python -m experiments.train --config=configs/emoji/vqgan64.py --workdir=runs/vqgan64`, then

python -m experiments.cluster_codebook --tokenizer=runs/vqgan64 --clusters=128
python -m experiments.train_text_pieces --source=emoji --pieces=1000 --out=runs/text_pieces/emoji.model
python -m experiments.prepare_features --config=configs/emoji/coglm.py --out=runs/features/coglm

python -m experiments.train --config=configs/emoji/coglm.py --workdir=runs/coglm
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "coglm"
    config.tokenizer = "runs/vqgan64"
    config.text_pieces = "runs/text_pieces/emoji.model"
    config.model = {
        "vocab_size": 5099,  # 4096 codes, 1000 pieces, 3 special tokens
        "grid": (8, 8),
        "text_length": 32,
        "image_position": 32,
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 1024,
        "dropout": 0.0,
        "dtype": "float32",
    }
    config.loss = {
        "image_to_text": 0.3,
        "text_only": 0.0,
        "patch": 4,
        "patch_share": 0.8,
    }
    config.data = {
        "source": "emoji",
        "split": "train",
        "eval_split": "heldout_pairs",
        "features": "runs/features/coglm",  # "" computes tokens and pieces in every step
        "batch_size": 64,
        "image_size": 64,
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
        "temperature": 0.6,
        "top_clusters": 16,
        "text_weight": 0.5,
    }
    config.total_steps = 800
    config.log_every = 50
    config.eval_every = 250
    config.preview_every = 500
    config.checkpoint_every = 100
    return config
