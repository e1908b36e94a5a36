"""Muse's super-resolution model: 512 px images as 64x64 tokens from 16x16 tokens and text (section 2.4).

The paper states its size, 268M parameters; width and depths are chosen here to match it (272M).

python -m experiments.train --config=configs/muse/superres_268m.py --workdir=runs/superres_268m
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "superres"
    config.tokenizer = "runs/vqgan_f16_256"
    config.superres_tokenizer = "runs/vqgan_f8_512"
    config.model = {
        "vocab_size": 8192,
        "low_vocab_size": 8192,
        "grid": (64, 64),
        "low_grid": (16, 16),
        "width": 768,
        "depth": 24,
        "low_depth": 4,
        "heads": 12,
        "mlp_dim": 3072,
        "text_dim": 4096,  # T5-XXL
        "block": 8,  # windows of 8x8 tokens, and grids of 8x8 tokens at distance 8
        "dropout": 0.1,
        "remat": True,
        "dtype": "bfloat16",
    }
    config.loss = {
        "label_smoothing": 0.1,  # as in MaskGIT
        "text_dropout": 0.1,  # for classifier-free guidance
    }
    config.data = {
        "source": "folder:data/captioned",  # images beside a captions.jsonl
        "split": "train",
        "eval_split": "validation",
        "text_encoder": "t5:checkpoints/t5-v1_1-xxl",  # frozen
        "batch_size": 512,
        "image_size": 512,
        "superres_factor": 2,  # the low-resolution image has half the side
        "workers": 16,
    }
    config.optim = {
        "name": "adafactor",
        "lr": 1e-4,  # not in the paper; this, b1, weight decay and warm-up are MaskGIT's
        "b1": 0.9,
        "weight_decay": 0.045,
        "warmup_steps": 5_000,
        "decay": "cosine",
        "ema": 0.9999,
    }
    config.sampling = {
        "num_steps": 8,
        "guidance_scale": 8.0,  # in the last step; it grows linearly from 0
        "temperature": 1.0,
        "choice_temperature": 4.5,
        "order": "confidence",
    }
    config.mesh = {
        "data": -1,
        "fsdp": 8,
        "tensor": 1,
    }
    config.total_steps = 1_000_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
