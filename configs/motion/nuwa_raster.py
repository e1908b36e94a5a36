"""configs/motion/nuwa.py with the inputs as published: each place reads the previous token in raster order.

python -m experiments.train --config=configs/motion/nuwa_raster.py --workdir=runs/motion/nuwa_raster
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.model.shift = "raster"
    return config
