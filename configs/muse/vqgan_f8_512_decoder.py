"""A larger decoder for the frozen encoder and codebook of configs/muse/vqgan_f8_512.py (Muse, section 2.8).

The tokens do not change, so transformers trained on them remain valid. Four res blocks per level and 256 base
channels are from memory of Muse's appendix and have not been verified; the number of steps is this project's
choice.

python -m experiments.train --config=configs/muse/vqgan_f8_512_decoder.py --workdir=runs/vqgan_f8_512_decoder
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan_decoder"
    config.tokenizer = "runs/vqgan_f8_512"
    config.model = {
        "filters": 128,
        "multipliers": (1, 1, 2, 4),
        "num_res_blocks": 2,
        "patch": 1,
        "codebook_size": 8192,
        "embed_dim": 256,
        "entropy_temperature": 0.01,
        "decoder_filters": 256,
        "decoder_res_blocks": 4,
        "dtype": "bfloat16",
    }
    config.discriminator = {
        "filters": (32, 64, 128, 256, 512, 512, 512, 512),
    }
    config.loss = {
        "reconstruction": 1.0,
        "perceptual": 0.1,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.1,
        "adversarial": 0.1,  # non-saturating
        "r1": 10.0,
        "r1_every": 16,
    }
    config.data = {
        "source": "folder:data/captioned",  # captions are not read
        "split": "train",
        "eval_split": "validation",
        "batch_size": 256,
        "image_size": 512,
        "augment": "flip",
        "workers": 16,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-4,
        "b1": 0.0,
        "b2": 0.99,
        "warmup_steps": 2_000,
        "decay": "constant",
        "grad_clip": 0.0,  # MaskGIT does not clip
        "ema": 0.999,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 1,
        "tensor": 1,
    }
    config.total_steps = 500_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
