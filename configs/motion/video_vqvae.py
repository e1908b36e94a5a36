"""VideoGPT's tokenizer of clips at 64 px and 8 frames: 2x16x16 codes, as many as 8x8x8 of single frames.

It is the contrast to configs/motion/vqgan64.py: a code stands for 4 frames of 4x4 pixels, so that one image
has no code unless it is repeated.

python -m experiments.train --config=configs/motion/video_vqvae.py --workdir=runs/motion/video_vqvae
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "nuwa"
    config.task = "video_vqvae"
    config.model = {
        "downsample": (4, 4, 4),
        "width": 64,
        "num_res_blocks": 2,
        "heads": 2,
        "codebook_size": 4096,
        "embed_dim": 64,
        "dtype": "float32",
    }
    config.data = {
        "source": "motion/x6",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 8,
        "image_size": 64,
        "frames": 8,
        "fps": 8.0,
    }
    config.optim = {
        "name": "adam",
        "lr": 3e-4,
        "b1": 0.9,
        "b2": 0.999,
        "ema": 0.998,
    }
    config.total_steps = 4000
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 1000
    config.checkpoint_every = 250
    return config
