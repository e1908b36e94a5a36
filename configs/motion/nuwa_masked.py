"""configs/motion/nuwa.py with masked tokens, which are predicted from all others and decoded in parallel.

python -m experiments.train --config=configs/motion/nuwa_masked.py --workdir=runs/motion/nuwa_masked
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.model.shift = "none"
    config.sampling.update(top_k=0, num_steps=24)
    return config
