"""CogView2's CogLM: 160 px images as 20x20 tokens, and their captions, in one vocabulary (section 3.1).

Width 3072, 48 layers and 150,000 tokens make 5.9B parameters. The learning rate, its warm-up and the batch
are this project's choice.

python -m experiments.train --config=configs/cogview2/coglm_6b.py --workdir=runs/coglm_6b
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "cogview2"
    config.task = "coglm"
    config.tokenizer = "runs/vqgan_f8_160"
    config.text_pieces = "checkpoints/icetk/ice_text.model"
    config.model = {
        "vocab_size": 150_000,  # 20,000 codes, then pieces of English and Chinese, then special tokens
        "grid": (20, 20),
        "text_length": 111,
        "image_position": 512,
        "width": 3072,
        "depth": 48,
        "heads": 48,
        "mlp_dim": 12_288,
        "remat": True,
        "dtype": "bfloat16",
    }
    config.loss = {
        "image_to_text": 0.3,
        "text_only": 0.1,  # the paper uses texts from other data instead
        "patch": 4,
        "patch_share": 0.8,
    }
    config.data = {
        "source": "folder:data/captioned",  # images beside a captions.jsonl
        "split": "train",
        "eval_split": "validation",
        "batch_size": 1024,
        "image_size": 160,
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
        "temperature": 1.15,
        "top_clusters": 16,  # of 500
        "text_weight": 1.4,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 16,
        "tensor": 1,
    }
    config.total_steps = 300_000
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
