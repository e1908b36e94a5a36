"""configs/motion/nuwa.py with full attention: every place sees all places before it.

python -m experiments.train --config=configs/motion/nuwa_full.py --workdir=runs/motion/nuwa_full
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.model.attention = "full"
    return config
