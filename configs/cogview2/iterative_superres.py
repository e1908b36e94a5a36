"""CogView2's iterative super-resolution: 60x60 tokens of 480 px refined by LoPAR (section 3.3).

It has the CogLM's 5.9B parameters, all trained further. Learning rate, warm-up, steps and batch are this
project's choice.
"""

import ml_collections

from configs.cogview2 import direct_superres


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = direct_superres.get_config()
    config.task = "iterative_superres"
    config.coglm = ""
    del config.model.factor
    del config.model.coarse_window
    config.model.update(grid=(60, 60), text_length=16)
    config.sampling = {"temperature": 1.0}
    return config
