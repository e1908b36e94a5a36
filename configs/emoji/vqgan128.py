"""The f8 tokenizer of the 128 px emoji model: 128x128 pixels to 16x16 codes.

Trained on 64 px crops, which cost a quarter: the network is convolutional and serves both sizes. It starts
from the 64 px tokenizer and learns the smoother patches of the larger pictures.
"""

import ml_collections

from configs.emoji import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.init_from = "runs/vqgan64"
    config.data.augment = "crop"
    config.optim.lr = 1e-3
    config.total_steps = 1_000
    config.eval_every = 500
    config.preview_every = 500
    return config
