"""The network of configs/motion/nuwa.py trained on the first four frames of clips, twice as many in a step.

It comes between configs/motion/nuwa_images.py and configs/motion/nuwa.py: motion is learned from more
captions in the same time, and the later frames last.

python -m experiments.train --config=configs/motion/nuwa_four_frames.py --workdir=runs/motion/nuwa_four_frames
--config.init_from=runs/motion/nuwa_images
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.data.frames = 4
    config.data.batch_size = 24
    config.optim.lr = 1e-3  # of weights already trained: 3e-3 would undo the decay of the run before
    config.total_steps = 1000
    return config
