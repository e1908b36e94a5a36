"""A larger decoder for configs/muse/vqgan_f8_512.py, whose encoder and codes stay (Muse, section 2.8).

The tokens stay the same, so transformers trained on them stay valid. Four res blocks a level and 256 base
channels are remembered from Muse's appendix and were not checked; the number of steps is this project's
choice.
"""

import ml_collections

from configs.muse import vqgan_f8_512


def get_config() -> ml_collections.ConfigDict:
    """The experiment: the tokenizer's but for the decoder."""
    config = vqgan_f8_512.get_config()
    config.task = "vqgan_decoder"
    config.tokenizer = "runs/vqgan_f8_512"
    config.model.decoder_filters = 256
    config.model.decoder_res_blocks = 4
    config.total_steps = 500_000
    return config
