"""MaskBit's generator over 12 bits: two tokens of 6 bits a position, else as generator_14bit.py."""

import ml_collections

from configs.maskbit import generator_14bit


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = generator_14bit.get_config()
    config.tokenizer = "runs/maskbit_tokenizer_12bit"
    config.model.vocab_size = 64
    return config
