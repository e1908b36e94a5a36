"""The network that ranks the candidates of configs/motion/nuwa.py by their captions.

python -m experiments.train --config=configs/motion/ranker.py --workdir=runs/motion/ranker
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "nuwa"
    config.task = "video_ranker"
    config.model = {
        "widths": (48, 96, 192),
        "depth": 2,
        "text_dim": 384,
        "embed_dim": 256,
        "dtype": "float32",
    }
    config.data = {
        "source": "motion/common/x6",
        "split": "train",
        "eval_split": "validation",
        "text_encoder": "minilm",
        "batch_size": 64,  # each video is told from the captions of 63 others
        "image_size": 64,
        "frames": 8,
        "fps": 8.0,
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.98,
        "weight_decay": 0.05,
        "warmup_steps": 50,
        "ema": 0.98,
    }
    config.total_steps = 600
    config.log_every = 20
    config.eval_every = 100
    config.preview_every = 0
    config.checkpoint_every = 50
    return config
