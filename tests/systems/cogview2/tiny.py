"""A random CogView2 pipeline, as small as the layout allows, over pieces learned from a few words."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np

from muse_jax.sampling.params import LoparSampling, TokenSampling
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.cogview2.sampling_params import CogLMSampling
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, split_params
from muse_jax.text import TextPieces, train_text_pieces
from muse_jax.tokenizers import VQGAN, Clusters, codebook_rows
from tests.systems.muse.tiny import TOKENIZER, random_params

CODES, PIECES = 20, 12
SIZES = {"image_position": 7, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 24}
NETWORK = CogLM(CODES + PIECES + 3, grid=(3, 3), text_length=6, **SIZES)
# Of fewer pieces than CogLM.
DIRECT = DirectSuperRes(
    NETWORK.vocab_size, grid=(3, 3), text_length=5, factor=2, window=(3, 3), coarse_window=(3, 1), **SIZES
)
ITERATIVE = IterativeSuperRes(NETWORK.vocab_size, grid=(6, 6), text_length=3, window=(3, 3), **SIZES)


@functools.cache
def text_pieces():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.model"
        train_text_pieces(["a bee", "bad ace", "a cab", "deed"] * 5, file, PIECES)
        return TextPieces.from_file(file, NETWORK.text_length - 1)


@functools.cache
def tiny_cogview2():
    """12 px: a grid of 3x3 tokens."""
    tokenizer = VQGAN(codebook_size=CODES, **TOKENIZER)
    # Half precision holds it, so that codes stay in their clusters when it is stored so.
    vqgan = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), random_params(tokenizer, 1))
    # Weights of another size for CogLM: in sandwich norms small ones vanish, and every token must matter.
    coglm = random_params(NETWORK, 0, scale=1.0)
    sampling = CogLMSampling(top_clusters=4, num_candidates=3, text_weight=0.5, infill_text_weight=0.7)
    rows = np.asarray(codebook_rows(tokenizer, vqgan))
    nearest = np.square(rows[:, None] - rows[None, :6]).sum(axis=-1).argmin(axis=1)
    clusters = Clusters(nearest.astype(np.int32), rows[:6])
    return CogView2Pipeline(text_pieces(), LoadedStage(NETWORK, coglm, sampling, tokenizer, vqgan), clusters)


@functools.cache
def whole_cogview2():
    """12 px, then 24 px: grids of 3x3 and 6x6 tokens."""
    own = split_params(random_params(DIRECT, 2, scale=1.0))[1]
    iterative = random_params(ITERATIVE, 3, scale=1.0)
    return dataclasses.replace(
        tiny_cogview2(),
        direct=LoadedStage(DIRECT, own, TokenSampling(top_clusters=3, inner_temperature=0.5)),
        iterative=LoadedStage(ITERATIVE, iterative, LoparSampling(1.1, top_k=(9, 7, 5, 3))),
    )
