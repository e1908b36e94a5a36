"""VQGAN+ of 12 bits: MaskBit's tokenizer with a learned table of 4096 codes of 64 dimensions.

As in its public config, there is no entropy loss. Everything else is as in tokenizer_14bit.py.

python -m experiments.train --config=configs/maskbit/vqgan_plus_12bit.py --workdir=runs/vqgan_plus_12bit
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "groups": 1,
        "filters": 128,
        "multipliers": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "patch": 1,
        "quantizer_kind": "vq",
        "codebook_size": 4096,
        "embed_dim": 64,
        "entropy_temperature": 0.01,
        "dtype": "bfloat16",
    }
    config.discriminator = {
        "filters": (128, 256, 512, 512, 512),
        "patch": 2,
    }
    config.loss = {
        "reconstruction": 4.0,
        "perceptual": 0.1,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.0,
        "adversarial": 0.02,
        "adversarial_start": 20_000,
        "r1": 10.0,
        "r1_every": 16,
    }
    config.data = {
        "source": "folder:data/captioned",  # captions are not read
        "split": "train",
        "eval_split": "validation",
        "batch_size": 256,
        "image_size": 256,
        "augment": "zoom+flip",
        "workers": 16,
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-4,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 1e-4,
        "warmup_steps": 5_000,
        "decay": "cosine",
        "grad_clip": 1.0,
        "ema": 0.999,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 1,
        "tensor": 1,
    }
    config.total_steps = 1_350_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
