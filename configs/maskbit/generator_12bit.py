"""MaskBit's generator over 12 bits: two tokens of 6 bits per position, otherwise as generator_14bit.py.

python -m experiments.train --config=configs/maskbit/generator_12bit.py --workdir=runs/generator_12bit
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "base"
    config.tokenizer = "runs/maskbit_tokenizer_12bit"
    config.model = {
        "vocab_size": 64,
        "groups": 2,
        "grid": (16, 16),
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "mlp_dim": 4096,
        "text_dim": 2048,  # T5-XL
        "dropout": 0.1,
        "remat": False,
        "dtype": "bfloat16",
    }
    config.loss = {
        "label_smoothing": 0.1,
        "text_dropout": 0.1,
    }
    config.data = {
        "source": "folder:data/captioned",  # images beside a captions.jsonl
        "split": "train",
        "eval_split": "validation",
        "text_encoder": "t5:checkpoints/t5-v1_1-xl",  # frozen
        "batch_size": 1024,
        "image_size": 256,
        "workers": 16,
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-4,
        "b1": 0.9,
        "b2": 0.96,
        "weight_decay": 0.045,
        "warmup_steps": 5_000,
        "decay": "cosine",
        "ema": 0.999,
    }
    config.sampling = {
        "num_steps": 64,
        "guidance_scale": 7.1,
        "temperature": 1.0,
        "choice_temperature": 7.8,
        "order": "confidence",
    }
    config.mesh = {
        "data": -1,
        "fsdp": 8,
        "tensor": 1,
    }
    config.total_steps = 1_350_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
