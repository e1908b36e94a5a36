"""MaskBit's tokenizer of 12 bits: two tokens of 6 bits a position, else as tokenizer_14bit.py."""

import ml_collections

from configs.maskbit import tokenizer_14bit


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = tokenizer_14bit.get_config()
    config.model.update(embed_dim=12, codebook_size=64)
    return config
