"""CogLM over 24x24 tokens of 192 px, which experiments.benchmark.lopar compares with LoPAR.

python -m experiments.prepare_data --size=192
python -m experiments.prepare_features --config=configs/emoji/coglm_fine.py --out=runs/features/coglm_fine

python -m experiments.train --config=configs/emoji/coglm_fine.py --workdir=runs/coglm_fine
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
        "grid": (24, 24),
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
        "image_to_text": 0.0,
        "text_only": 0.0,
        "patch": 4,
        "patch_share": 0.8,
    }
    config.data = {
        "source": "emoji/px192",
        "split": "train",
        "eval_split": "heldout_pairs",
        "features": "runs/features/coglm_fine",  # "" computes tokens and pieces in every step
        "batch_size": 8,
        "image_size": 192,
    }
    config.optim = {
        "name": "muon",
        "lr": 1e-3,
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
    config.total_steps = 500
    config.log_every = 50
    config.eval_every = 250
    config.preview_every = 500
    config.checkpoint_every = 100
    return config
