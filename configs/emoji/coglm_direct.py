"""Direct super-resolution of emoji: 8x8 tokens of 64 px to 24x24 of 192 px, out of configs/emoji/coglm.py.

First train that CogLM, then

python -m experiments.prepare_data --size=192
python -m experiments.prepare_features --config=configs/emoji/coglm_direct.py --out=runs/features/coglm192
"""

import ml_collections

from configs.emoji import coglm


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = coglm.get_config()
    config.task = "direct_superres"
    config.coglm = "runs/coglm"
    config.init_from = "runs/coglm"
    config.model.update(factor=3, window=(9, 5), coarse_window=(5, 5))
    config.loss = {}
    config.data.update(
        source="emoji/px192",
        features="runs/features/coglm192",  # "" computes tokens and pieces in every step
        batch_size=8,
        image_size=192,
        superres_factor=3,
    )
    config.optim.update(lr=3e-3)
    # Of 128 clusters a fifth, as of the paper's 500.
    config.sampling = {"temperature": 0.6, "top_clusters": 25, "inner_temperature": 0.89}
    config.total_steps = 1_200
    config.eval_every = 250
    config.preview_every = 250
    return config
