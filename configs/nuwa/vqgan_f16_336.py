"""NUWA's tokenizer: 336 px images, and frames of videos, as 21x21 tokens of 12,288 codes (section 4.1).

Trained on images; the discriminator and the weights of the losses are VQGAN's. The channels are those of
NUWA-LIP (MIT licence), but for its attention at the lowest resolution.

python -m experiments.train --config=configs/nuwa/vqgan_f16_336.py --workdir=runs/vqgan_f16_336
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "filters": 128,
        "multipliers": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "codebook_size": 12288,
        "embed_dim": 256,
        "dtype": "bfloat16",
    }
    config.data = {
        "source": "folder:data/openimages",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 256,
        "image_size": 336,
        "augment": "crop+flip",
        "workers": 16,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-4,
        "b1": 0.5,
        "b2": 0.9,
        "warmup_steps": 5_000,
        "ema": 0.9999,
    }
    config.total_steps = 500_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
