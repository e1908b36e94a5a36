"""CogView2's iterative super-resolution: 60x60 tokens of 480 px refined by LoPAR (section 3.3).

It has the CogLM's 5.9B parameters, all trained further. Learning rate, warm-up, steps and batch are this
project's choice.

python -m experiments.train --config=configs/cogview2/iterative_superres.py --workdir=runs/iterative_superres
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "iterative_superres"
    config.init_from = "runs/coglm_6b"
    config.tokenizer = "runs/vqgan_f8_160"
    config.text_pieces = "checkpoints/icetk/ice_text.model"
    config.model = {
        "vocab_size": 150_000,  # 20,000 codes, then pieces of English and Chinese, then special tokens
        "grid": (60, 60),
        "text_length": 16,
        "image_position": 512,
        "width": 3072,
        "depth": 48,
        "heads": 48,
        "mlp_dim": 12_288,
        "window": (9, 5),
        "remat": True,
        "dtype": "bfloat16",
    }
    config.data = {
        "source": "folder:data/captioned",  # images beside a captions.jsonl
        "split": "train",
        "eval_split": "validation",
        "batch_size": 256,
        "image_size": 480,
        "superres_factor": 3,
        "workers": 16,
    }
    config.optim = {
        "name": "adafactor",
        "lr": 1e-4,
        "b1": 0.9,
        "weight_decay": 0.01,
        "warmup_steps": 5_000,
        "decay": "cosine",
        "ema": 0.9999,
    }
    config.sampling = {
        "temperature": 1.0,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 16,
        "tensor": 1,
    }
    config.total_steps = 50_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
