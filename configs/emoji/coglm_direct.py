"""Direct super-resolution of emoji: 8x8 tokens of 64 px to 24x24 of 192 px, out of configs/emoji/coglm.py.

First train that CogLM, then

python -m experiments.prepare_data --size=192
python -m experiments.prepare_features --config=configs/emoji/coglm_direct.py --out=runs/features/coglm192
"""

import ml_collections

from muse_jax.training import default_config


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = default_config()
    config.task = "direct_superres"
    config.tokenizer = "runs/vqgan64"
    config.text_pieces = "runs/text_pieces/emoji.model"
    config.coglm = "runs/coglm"
    config.init_from = "runs/coglm"
    config.model = {
        "vocab_size": 5099,
        "grid": (8, 8),
        "factor": 3,
        "window": (9, 5),
        "coarse_window": (5, 5),
        "text_length": 32,
        "image_position": 32,
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 1024,
        "dropout": 0.0,
        "dtype": "float32",
    }
    config.data.update(
        source="emoji/px192",
        split="train",
        eval_split="heldout_pairs",
        features="runs/features/coglm192",  # "" computes tokens and pieces in every step
        batch_size=8,
        image_size=192,
        superres_factor=3,
    )
    config.optim.update(
        name="adamw", lr=5e-4, b1=0.9, b2=0.98, weight_decay=0.03, warmup_steps=200, ema=0.999
    )
    # Of 128 clusters a fifth, as of the paper's 500.
    config.sampling.update(temperature=1.0, top_clusters=25, inner_temperature=0.89)
    config.total_steps = 3_000
    config.log_every = 100
    config.eval_every = 500
    config.preview_every = 500
    config.checkpoint_every = 500
    return config
