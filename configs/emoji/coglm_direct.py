"""Direct super-resolution of emoji: 8x8 tokens of 64 px to 24x24 of 192 px, from configs/emoji/coglm.py.

First train that CogLM, then

python -m experiments.prepare_data --size=192
python -m experiments.prepare_features --config=configs/emoji/coglm_direct.py --out=runs/features/coglm192

python -m experiments.train --config=configs/emoji/coglm_direct.py --workdir=runs/coglm_direct
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "direct_superres"
    config.init_from = "runs/coglm"
    config.tokenizer = "runs/vqgan64"
    config.text_pieces = "runs/text_pieces/emoji.model"
    config.coglm = "runs/coglm"
    config.model = {
        "vocab_size": 5099,  # 4096 codes, 1000 pieces, 3 special tokens
        "grid": (8, 8),
        "text_length": 32,
        "image_position": 32,
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 1024,
        "factor": 3,
        "window": (9, 5),
        "coarse_window": (5, 5),
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
        "temperature": 0.6,
        "top_clusters": 25,
        "inner_temperature": 0.89,
    }
    config.total_steps = 1_200
    config.log_every = 50
    config.eval_every = 250
    config.preview_every = 250
    config.checkpoint_every = 100
    return config
