"""Muse's small base model: 256 px pictures as 16x16 tokens from T5-XXL text (Muse, section 2.3).

The paper gives its size, 632M parameters; width and depth are this project's choice to come to that
(646M: T5's projection and the embeddings included).
"""

import ml_collections

from configs.muse import base_3b


def get_config() -> ml_collections.ConfigDict:
    """The experiment: the 3B model's but for its size."""
    config = base_3b.get_config()
    config.model.update(width=1280, depth=24, heads=20, mlp_dim=5120, remat=False)
    config.mesh.fsdp = 8
    config.total_steps = 1_000_000
    return config
