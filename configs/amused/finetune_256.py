"""Fine-tunes aMUSEd at 256 px on captioned images, as diffusers' train_amused does.

The published checkpoint is converted before (docs/published-weights.md):

python -m experiments.convert --from=amused --path=amused-256 --out=checkpoints/amused-256
python -m experiments.train --config=configs/amused/finetune_256.py --workdir=runs/finetune_256
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "amused"
    config.task = "finetune"
    config.tokenizer = "checkpoints/amused-256"
    config.text_encoder = "checkpoints/amused-256"
    config.init_from = "checkpoints/amused-256"
    config.model = {
        "vocab_size": 8256,
        "codebook_size": 8192,
        "grid": (16, 16),
        "width": 1024,
        "depth": 22,
        "heads": 16,
        "mlp_dim": 2816,
        "channels": 768,
        "conv_blocks": 3,
        "conv_heads": 12,
        "embed_dim": 768,
        "text_dim": 768,
        "pooled_dim": 768,
        "micro_dim": 256,
        "num_micro": 5,
        "resample": False,
        "remat": False,
        "dtype": "bfloat16",
    }
    config.loss = {
        "text_dropout": 0.1,  # for classifier-free guidance; 0 in train_amused
    }
    config.data = {
        "source": "folder:data/captioned",  # images beside a captions.jsonl
        "split": "train",
        "eval_split": "validation",
        "batch_size": 16,
        "image_size": 256,
        "workers": 16,
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-5,  # for a whole model of the smallest published batches
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.01,
        "warmup_steps": 500,
        "decay": "constant",
        "ema": 0.9999,
    }
    config.sampling = {
        "num_steps": 12,
        "guidance_scale": 10.0,
        "choice_temperature": 2.0,
        "aesthetic_score": 6.0,  # the micro-conditions of training too
        "crop_x": 0.0,
        "crop_y": 0.0,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 1,
        "tensor": 1,
    }
    config.total_steps = 10_000
    config.log_every = 50
    config.eval_every = 500
    config.preview_every = 500
    config.checkpoint_every = 500
    return config
