"""The f8 tokenizer of clips and images at 64 px: 8x8 positions of one of 4,096 codes, frame by frame.

Images, frames and sketches share the codebook. The encoder sees each square of 8x8 pixels by itself, so that
what stands still has the same codes in every frame and every clip. It is the projection on principal
components, and the codes are the k-means of its vectors. Codes that few batches use would grow stale if it
were trained on, so that one step is all; configs/motion/vqgan64_decoder.py trains the decoder.

First `python -m experiments.prepare_images --source=motion/images/x6 --size=64 --captions=1
--splits=train,heldout_pairs,validation --out=runs/motion/images`.

python -m experiments.train --config=configs/motion/vqgan64.py --workdir=runs/motion/vqgan64
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = ml_collections.ConfigDict()
    config.system = "vqgan"
    config.task = "vqgan"
    config.model = {
        "local": True,
        "filters": 256,
        "multipliers": (1,),
        "num_res_blocks": 2,
        "patch": 8,
        "codebook_size": 4096,
        "embed_dim": 64,
        "decoder_filters": 48,
        "decoder_multipliers": (1, 2, 4),
        "decoder_res_blocks": 1,
        "decoder_patch": 2,
        "decoder_linear": True,
        "dtype": "float32",
    }
    config.loss = {
        "reconstruction": 8.0,
        "l1": 1.0,
        "edge": 0.5,
        "perceptual": 0.0,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.0,
        "adversarial": 0.0,
    }
    config.data = {
        "source": "precomputed:runs/motion/images/64",
        "split": "train",
        "eval_split": "validation",
        "batch_size": 16,
        "image_size": 64,
    }
    config.optim = {
        "name": "adam",
        "lr": 1e-3,
        "b1": 0.9,
        "b2": 0.99,
        "warmup_steps": 100,
        "ema": 0.998,
    }
    config.kmeans_images = 3072
    config.total_steps = 1
    config.log_every = 1
    config.eval_every = 1
    config.eval_batches = 1
    config.preview_every = 0
    config.checkpoint_every = 1
    return config
