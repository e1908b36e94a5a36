"""configs/motion/vqgan64.py on single images: one frame of each drawing, in place of six of its clips.

Its PSNR on the images of the validation split, beside that of the tokenizer of both, is what sharing the
codebook with videos costs.

python -m experiments.train --config=configs/motion/vqgan64_images.py --workdir=runs/motion/vqgan64_images
"""

import ml_collections

from configs.motion import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.data.source = "motion/images"
    return config
