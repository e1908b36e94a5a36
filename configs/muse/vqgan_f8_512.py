"""The f8 tokenizer of Muse's super-resolution model: 512x512 pixels to 64x64 of 8192 codes (section 2.2).

The experiment is configs/muse/vqgan_f16_256.py's with one level less; the discriminator has one more.
"""

import ml_collections

from configs.muse import vqgan_f16_256


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan_f16_256.get_config()
    config.model.multipliers = (1, 1, 2, 4)
    config.discriminator.filters = (32, 64, 128, 256, 512, 512, 512, 512)
    config.data.image_size = 512
    return config
