"""CogView2's direct super-resolution: 20x20 tokens of 160 px to 60x60 of 480 px (section 3.2).

The frozen CogLM and the fine tokens' own weights make 7.7B parameters, of which 1.8B are trained. Learning
rate, warm-up, steps and batch are this project's choice.
"""

import ml_collections

from configs.cogview2 import coglm_6b


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = coglm_6b.get_config()
    config.task = "direct_superres"
    config.coglm = "runs/coglm_6b"
    config.init_from = "runs/coglm_6b"
    # 95 pieces and <start_of_image>, 400 coarse and 3600 fine tokens: sequences of 4096.
    config.model.update(factor=3, window=(9, 5), coarse_window=(5, 5), text_length=95)
    config.loss = {}
    config.data.update(batch_size=256, image_size=480, superres_factor=3)
    config.sampling = {"temperature": 1.0, "top_clusters": 100, "inner_temperature": 0.89}
    config.total_steps = 50_000
    return config
