"""configs/motion/nuwa.py with axial attention: every place sees three lines through it.

python -m experiments.train --config=configs/motion/nuwa_axial.py --workdir=runs/motion/nuwa_axial
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.model.attention = "axial"
    return config
