"""Fine-tuning of the decoder of configs/emoji/vqgan128.py on whole images, with frozen encoder and codebook.

Its crops have a border around every 8x8 codes, whole images around 16x16.

python -m experiments.train --config=configs/emoji/vqgan128_decoder.py --workdir=runs/vqgan128_decoder
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan_decoder"
    config.init_from = "runs/vqgan128"
    config.tokenizer = "runs/vqgan128"
    config.model = {
        "local": True,  # codes of single squares, which are easier for a small transformer
        "filters": 256,
        "multipliers": (1,),
        "num_res_blocks": 2,
        "patch": 8,  # all convolutions at 8x8, since a CPU is slow at full resolution
        "codebook_size": 4096,
        "embed_dim": 64,
    }
    config.loss = {
        "reconstruction": 4.0,
        "perceptual": 0.01,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.0,
        "adversarial": 0.0,
    }
    config.data = {
        "source": "emoji",
        "split": "train",
        "eval_split": "heldout_concepts",
        "batch_size": 8,
        "image_size": 128,
        "augment": "none",
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 50,
        "ema": 0.995,
    }
    config.total_steps = 1_400
    config.log_every = 100
    config.eval_every = 400
    config.eval_batches = 13
    config.preview_every = 400
    config.checkpoint_every = 400
    return config
