"""Random pipelines, as small as the layout allows, over the real text encoder."""

import functools

import jax
import numpy as np

from muse_jax.nn.shapes import parameter_shapes
from muse_jax.sampling.params import MaskedSampling
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.text import load_text_encoder
from muse_jax.tokenizers import VQGAN

TEXT = {"width": 32, "heads": 2, "mlp_dim": 32, "text_dim": 384}
TOKENIZER = {"filters": 8, "multipliers": (1,), "num_res_blocks": 1, "embed_dim": 4, "patch": 4}


def random_params(module, seed, scale=0.3):
    """Weights large enough that every input shows in the output; initial ones leave logits near zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32),
        parameter_shapes(module),
    )


def stage(network, tokenizer, seed, **sampling):
    return LoadedStage(
        network,
        random_params(network, seed),
        MaskedSampling(**sampling),
        tokenizer,
        random_params(tokenizer, seed + 1),
    )


@functools.cache
def text_encoder():
    return load_text_encoder("minilm")


@functools.cache
def tiny_pipeline():
    """16 px, then 32 px: grids of 4x4 and 8x8 tokens."""
    base = MaskedTransformer(16, grid=(4, 4), depth=1, **TEXT)
    superres = SuperResTransformer(
        24, 16, grid=(8, 8), low_grid=(4, 4), depth=2, low_depth=1, block=4, **TEXT
    )
    return MusePipeline(
        text_encoder(),
        stage(base, VQGAN(codebook_size=16, **TOKENIZER), 0, num_steps=3, guidance_scale=2.0),
        stage(superres, VQGAN(codebook_size=24, **TOKENIZER), 2, num_steps=2, order="halton"),
    )
