"""The decoder of configs/motion/vqgan64.py, which sees pixels; the encoder and the codes stay as they are.

It corrects the inverse of the encoder by what neighbouring squares have in common, with convolutions at half
of the resolution; the losses are absolute and squared error and edges.

python -m experiments.train --config=configs/motion/vqgan64_decoder.py --workdir=runs/motion/vqgan64_decoder
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan_decoder"
    config.tokenizer = "runs/motion/vqgan64"
    config.init_from = "runs/motion/vqgan64"
    config.model = {
        "local": True,
        "filters": 256,
        "multipliers": (1,),
        "num_res_blocks": 2,
        "patch": 8,
        "codebook_size": 4096,
        "embed_dim": 64,
        "decoder_filters": 48,
        "decoder_multipliers": (1, 2, 4),
        "decoder_res_blocks": 1,
        "decoder_patch": 2,
        "decoder_linear": True,
        "dtype": "float32",
    }
    config.loss = {
        "reconstruction": 8.0,
        "l1": 1.0,
        "edge": 0.5,
        "perceptual": 0.0,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.0,
        "adversarial": 0.0,
    }
    config.data = {
        "source": "precomputed:runs/motion/images/64",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 16,
        "image_size": 64,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 100,
        "ema": 0.998,
    }
    config.total_steps = 8_000
    config.log_every = 50
    config.eval_every = 250
    config.eval_batches = 16
    config.preview_every = 500
    config.checkpoint_every = 250
    return config
