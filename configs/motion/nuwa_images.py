"""The network of configs/motion/nuwa.py trained on single images, each an eighth of a clip's tokens.

The network learns what captions look like before it learns motion: configs/motion/nuwa_four_frames.py then
starts from its weights with --config.init_from=runs/motion/nuwa_images.

First train configs/motion/vqgan64.py in runs/motion/vqgan64, then
`python -m experiments.prepare_features --config=configs/motion/nuwa_images.py --splits=train,validation
--captions=2 --out=runs/features/motion_images`.

python -m experiments.train --config=configs/motion/nuwa_images.py --workdir=runs/motion/nuwa_images
"""

import ml_collections

from configs.motion import nuwa


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = nuwa.get_config()
    config.data.source, config.data.frames = "motion/common/images/x6", 1
    config.data.features = "runs/features/motion_images"
    config.data.batch_size = 96
    config.total_steps = 800
    config.eval_every, config.eval_batches = 100, 2
    config.preview_every = 400
    return config
