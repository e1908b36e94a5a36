"""The f8 tokenizer of clips and images at 64 px: 8x8 positions of one of 6,561 codes, frame by frame.

Images, frames and sketches share the codebook. The network is that of the checkpoint "icons" and starts from
its weights, with three levels per dimension in place of four: 3^8 codes, one for each position.

First `python -m experiments.prepare_images --source=motion/images/x6 --size=64 --captions=1
--splits=train,heldout_pairs,validation --out=runs/motion/images`.

python -m experiments.train --config=configs/motion/vqgan64.py --workdir=runs/motion/vqgan64
"""

import ml_collections

from configs.icons import vqgan64


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = vqgan64.get_config()
    config.model.groups, config.model.levels, config.model.codebook_size = 1, 3, 3**8
    config.model.decoder_res_blocks = 2
    config.init_from = "icons"
    config.data.source = "precomputed:runs/motion/images/64"
    config.data.eval_split = "validation"
    config.optim.lr, config.optim.warmup_steps = 1e-3, 50
    config.total_steps = 1200
    config.log_every, config.eval_every, config.preview_every = 20, 300, 300
    config.checkpoint_every = 100
    return config
