"""The f8 tokenizer of the icons at 64 px: 8x8 positions of 16 bits, two tokens of 256 codes each.

The encoder starts with patches of 2 pixels, and the decoder ends in convolutions at full resolution, so that
outlines are continuous. The losses suit flat drawings: absolute error and edges, which keep outlines sharper
than the squared error does, and LPIPS on the first three stages of VGG-16.

First `python -m experiments.prepare_images --source=icons/x2 --size=128 --size=64 --out=runs/icons/images`.

python -m experiments.train --config=configs/icons/vqgan64.py --workdir=runs/icons/vqgan64
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "groups": 2,
        "filters": 64,
        "multipliers": (1, 2, 3),
        "num_res_blocks": 1,
        "patch": 2,
        "quantizer_kind": "fsq",
        "codebook_size": 256,
        "levels": 4,
        "embed_dim": 8,
        "decoder_filters": 32,
        "decoder_multipliers": (1, 2, 4, 6),
        "decoder_res_blocks": 1,
        "decoder_patch": 1,
        "dtype": "float32",
    }
    config.loss = {
        "reconstruction": 8.0,
        "l1": 1.0,
        "edge": 0.5,
        "perceptual": 0.0,
        "lpips": 0.2,
        "lpips_stages": 3,
        "lpips_file": "",
        "codebook": 0.0,
        "commitment": 0.0,
        "entropy": 0.0,
        "adversarial": 0.0,
    }
    config.data = {
        "source": "precomputed:runs/icons/images/64",
        "split": "train",
        "eval_split": "heldout_concepts",
        "batch_size": 16,
        "image_size": 64,
    }
    config.optim = {
        "name": "adam",
        "lr": 2e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 200,
        "ema": 0.998,
    }
    config.total_steps = 20_000
    config.log_every = 50
    config.eval_every = 1_000
    config.eval_batches = 16
    config.preview_every = 1_000
    config.checkpoint_every = 500
    return config
