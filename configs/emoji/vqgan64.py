"""The f8 tokenizer of the 64 px emoji model: 64x64 pixels to 8x8 codes. Small enough for a laptop's CPU.

python -m experiments.train --config=configs/emoji/vqgan64.py --workdir=runs/vqgan64
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "local": True,  # codes of single squares, which are easier for a small transformer
        "filters": 256,
        "multipliers": (1,),
        "num_res_blocks": 2,
        "patch": 8,  # all convolutions at 8x8, since a CPU is slow at full resolution
        "codebook_size": 4096,
        "embed_dim": 64,
    }
    config.loss = {
        "reconstruction": 4.0,
        "perceptual": 0.01,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.0,
        "adversarial": 0.0,
    }
    config.data = {
        "source": "emoji",
        "split": "train",
        "eval_split": "heldout_concepts",
        "batch_size": 16,
        "image_size": 64,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 200,
        "ema": 0.999,
    }
    config.total_steps = 1_200
    config.log_every = 100
    config.eval_every = 400
    config.eval_batches = 13
    config.preview_every = 400
    config.checkpoint_every = 400
    return config
