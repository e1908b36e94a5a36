"""CogView2's direct super-resolution: 20x20 tokens of 160 px to 60x60 of 480 px (section 3.2).

The frozen CogLM and the fine tokens' own weights make 7.7B parameters, of which 1.8B are trained. Learning
rate, warm-up, steps and batch are this project's choice.

python -m experiments.train --config=configs/cogview2/direct_superres.py --workdir=runs/direct_superres
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "direct_superres"
    config.init_from = "runs/coglm_6b"
    config.tokenizer = "runs/vqgan_f8_160"
    config.text_pieces = "checkpoints/icetk/ice_text.model"
    config.coglm = "runs/coglm_6b"
    config.model = {
        "vocab_size": 150_000,  # 20,000 codes, then pieces of English and Chinese, then special tokens
        "grid": (20, 20),
        "text_length": 95,
        "image_position": 512,
        "width": 3072,
        "depth": 48,
        "heads": 48,
        "mlp_dim": 12_288,
        "factor": 3,
        "window": (9, 5),
        "coarse_window": (5, 5),
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
        "top_clusters": 100,  # of 500
        "inner_temperature": 0.89,
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
