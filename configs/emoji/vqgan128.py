"""The f8 tokenizer of the 128 px emoji model: 128x128 pixels to 16x16 codes.

Trained on 64 px crops, which cost a quarter: the network is convolutional and serves both sizes. It has a
codebook of its own, since the squares of larger pictures are smoother.
"""

import ml_collections

from configs.emoji import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.data.augment = "crop"
    return config
