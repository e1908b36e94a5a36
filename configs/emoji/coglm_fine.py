"""CogLM token by token over 24x24 tokens of 192 px, which experiments.benchmark.lopar measures LoPAR against.

python -m experiments.prepare_data --size=192
python -m experiments.prepare_features --config=configs/emoji/coglm_fine.py --out=runs/features/coglm_fine
"""

import ml_collections

from configs.emoji import coglm


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = coglm.get_config()
    config.model.update(grid=(24, 24))
    config.data.update(
        source="emoji/px192", features="runs/features/coglm_fine", batch_size=8, image_size=192
    )
    config.loss.update(image_to_text=0.0)
    config.optim.update(lr=1e-3)
    config.total_steps = 500
    config.eval_every = 250
    return config
