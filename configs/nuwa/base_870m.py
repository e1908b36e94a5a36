"""NUWA at the paper's size: 870M parameters, 336 px, 21x21 tokens an image, ten times as many a video.

The decoder's 24 layers of width 1280 hold 787M of them (section 4.1 gives the sum; the sizes are derived from
it). The paper's 12-layer text encoder has CLIP's size, 63M; here the frozen 12 layers of T5-base stand in its
place. `shift="raster"` is the published input; "3d", which this takes, allows sampling by wavefronts.

python -m experiments.train --config=configs/nuwa/base_870m.py --workdir=runs/base_870m
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "nuwa"
    config.task = "nuwa"
    config.tokenizer = "runs/vqgan_f16_336"
    config.model = {
        "vocab_size": 12288,
        "grid": (10, 21, 21),
        "width": 1280,
        "depth": 24,
        "heads": 20,
        "mlp_dim": 5120,
        "text_dim": 768,  # T5-base
        "code_dim": 256,
        "window": (3, 3, 3),
        "shift": "3d",
        "condition_depth": 0,  # the encoder of sketches comes with fine-tuning
        "layer_scale": 0.1,
        "dropout": 0.0,
        "remat": True,
        "dtype": "bfloat16",
    }
    config.loss = {  # equal weights, as published
        "text_to_image": 1.0,
        "prediction": 1.0,
        "text_to_video": 1.0,
        "text_dropout": 0.1,  # for guidance, which the paper does not have
    }
    config.data = {
        "source": "folder:data/captioned_videos",
        "split": "train",
        "eval_split": "validation",
        "text_encoder": "t5:checkpoints/t5-v1_1-base",  # frozen
        "batch_size": 512,
        "image_size": 336,
        "frames": 10,
        "fps": 2.5,
        "workers": 16,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.999,
        "warmup_steps": 19_500,  # 5 % of the steps
        "ema": 0.9999,
    }
    config.sampling = {
        "guidance_scale": 1.0,
        "temperature": 1.0,
        "top_k": 128,
    }
    config.mesh = {
        "data": -1,
        "fsdp": 8,
        "tensor": 1,
    }
    config.total_steps = 390_000  # of 50M samples that the paper seems to mean, at a batch of 128
    config.log_every = 100
    config.eval_every = 5_000
    config.preview_every = 5_000
    config.checkpoint_every = 5_000
    return config
