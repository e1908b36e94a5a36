"""The f8 tokenizer of the 128 px emoji model: 128x128 pixels to 16x16 codes.

It is trained on 64 px crops at a quarter of the cost, since the network is convolutional. Its codebook is not
shared with the 64 px tokenizer, because the squares of larger images are smoother.

python -m experiments.train --config=configs/emoji/vqgan128.py --workdir=runs/vqgan128
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
        "augment": "crop",
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
