"""The f8 tokenizer of CogView2: 160 px images to 20x20 of 20,000 codes (section 3.1)."""

import ml_collections

from configs.muse import vqgan_f8_512


def get_config() -> ml_collections.ConfigDict:
    """The experiment: Muse's f8 tokenizer but for its codes, images and discriminator."""
    config = vqgan_f8_512.get_config()
    config.model.codebook_size = 20_000
    config.discriminator.filters = (64, 128, 256, 512, 512, 512)  # down to 5x5
    config.data.image_size = 160
    return config
