"""configs/motion/nuwa.py trained on text to video alone, without images, prediction and sketches.

python -m experiments.train --config=configs/motion/nuwa_video_only.py --workdir=runs/motion/nuwa_video_only
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.model.condition_depth = 0  # without sketches, their encoder would not be trained
    config.loss.update(text_to_image=0.0, prediction=0.0, sketch_to_video=0.0)
    return config
