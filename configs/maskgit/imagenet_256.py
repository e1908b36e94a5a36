"""MaskGIT's class-conditional transformer on ImageNet at 256 px (Chang et al. 2022, section 4).

The tokenizer is the released one, converted before (docs/published-weights.md):

python -m experiments.convert --from=maskgit --path=maskgit-256 --out=checkpoints/maskgit-256
python -m experiments.train --config=configs/maskgit/imagenet_256.py --workdir=runs/imagenet_256
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "maskgit"
    config.task = "class_conditional"
    config.tokenizer = "checkpoints/maskgit-256"
    config.model = {
        "vocab_size": 1024,
        "num_classes": 1000,
        "grid": (16, 16),
        "width": 768,
        "depth": 24,
        "heads": 16,
        "mlp_dim": 3072,
        "dropout": 0.1,
        "remat": False,
        "dtype": "bfloat16",
    }
    config.loss = {
        "label_smoothing": 0.1,
    }
    config.data = {
        "source": "tfds:imagenet2012",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 256,
        "image_size": 256,
        "augment": "crop+flip",
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
        "ema": 0.9999,  # this project's choice
    }
    config.sampling = {
        "num_steps": 8,
        "temperature": 1.0,
        "choice_temperature": 4.5,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 1,
        "tensor": 1,
    }
    config.total_steps = 2_000_000
    config.log_every = 100
    config.eval_every = 10_000
    config.preview_every = 10_000
    config.checkpoint_every = 10_000
    return config
