"""VQGAN+ of 12 bits: MaskBit's tokenizer with a learned table of 4096 codes of 64 dimensions.

As in its public config, no entropy loss is needed to use the table; else as tokenizer_14bit.py.
"""

import ml_collections

from configs.maskbit import tokenizer_14bit


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = tokenizer_14bit.get_config()
    config.model.update(quantizer_kind="vq", embed_dim=64, codebook_size=4096, groups=1)
    config.loss.update(codebook=1.0, entropy=0.0)
    return config
