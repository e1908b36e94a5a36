"""Muse's 3B base model: 256 px images as 16x16 tokens from T5-XXL text (Muse, section 2.3).

Width 2048, 48 layers and an MLP of 8192 make 3.25B parameters; the number of heads is this project's choice.

python -m experiments.train --config=configs/muse/base_3b.py --workdir=runs/base_3b
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "muse"
    config.task = "base"
    config.tokenizer = "runs/vqgan_f16_256"
    config.model = {
        "vocab_size": 8192,
        "grid": (16, 16),
        "width": 2048,
        "depth": 48,
        "heads": 16,
        "mlp_dim": 8192,
        "text_dim": 4096,  # T5-XXL
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
        "image_size": 256,
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
        "num_steps": 24,
        "guidance_scale": 8.0,  # in the last step; it grows linearly from 0
        "temperature": 1.0,
        "choice_temperature": 4.5,
        "order": "confidence",
    }
    config.mesh = {
        "data": -1,
        "fsdp": 32,
        "tensor": 1,
    }
    config.total_steps = 1_500_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
