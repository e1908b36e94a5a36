"""Iterative super-resolution of emoji: 24x24 tokens of 192 px, refined by LoPAR, out of emoji/coglm.py.

The features are those of configs/emoji/coglm_direct.py, hence its 31 pieces where the paper has 16.
"""

import ml_collections

from configs.emoji import coglm, coglm_direct


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = coglm_direct.get_config()
    config.task = "iterative_superres"
    config.coglm = ""
    config.model = coglm.get_config().model
    config.model.update(grid=(24, 24), window=(9, 5), text_length=31)
    config.sampling = {"temperature": 0.5}
    return config
