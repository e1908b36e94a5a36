"""NUWA on 64 px clips of 8 frames: 8x8x8 tokens from a caption, a sketch or the first frame.

First train configs/motion/vqgan64.py in runs/motion/vqgan64, then
`python -m experiments.prepare_features --config=configs/motion/nuwa.py --out=runs/features/motion`.

python -m experiments.train --config=configs/motion/nuwa.py --workdir=runs/motion/nuwa
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "nuwa"
    config.task = "nuwa"
    config.tokenizer = "runs/motion/vqgan64"
    config.model = {
        "vocab_size": 6561,
        "grid": (8, 8, 8),
        "width": 256,
        "depth": 6,
        "heads": 4,
        "mlp_dim": 512,  # of GEGLU, which has three matrices
        "text_dim": 384,
        "code_dim": 64,
        "window": (3, 3, 3),
        "shift": "3d",
        "condition_depth": 2,
        "layer_scale": 0.3,
        "dtype": "float32",
    }
    config.loss = {
        "text_to_image": 1.0,
        "prediction": 1.0,
        "text_to_video": 1.0,
        "sketch_to_video": 1.0,
        "text_dropout": 0.1,
    }
    config.data = {
        "source": "motion/common/x6",  # "motion/x6" has all emoji: for larger networks or longer training
        "split": "train",
        "eval_split": "validation",
        "features": "runs/features/motion",  # "" computes tokens and text states in every step
        "text_encoder": "minilm",
        "batch_size": 12,  # by turns text to video, prediction, sketch to video
        "image_size": 64,
        "frames": 8,
        "fps": 8.0,
    }
    config.optim = {
        "name": "muon",
        "lr": 3e-3,
        "b1": 0.9,
        "b2": 0.98,
        "weight_decay": 0.03,
        "warmup_steps": 60,
        "ema": 0.98,
    }
    config.sampling = {
        "guidance_scale": 0.5,  # a larger one moves emoji better, and tears weather icons
        "temperature": 0.5,
        "top_k": 256,
    }
    config.total_steps = 4000
    config.log_every = 20
    config.eval_every = 250
    config.eval_batches = 4
    config.preview_every = 500
    config.checkpoint_every = 100
    return config
