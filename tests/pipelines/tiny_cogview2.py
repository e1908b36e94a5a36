"""A random CogView2 pipeline, as small as the layout allows, over pieces learned from a few words."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from muse_jax.networks import CogLM
from muse_jax.pipelines import CogLMDecoding, CogView2Pipeline, Stage
from muse_jax.text import TextPieces, train_text_pieces
from muse_jax.tokenizers import VQGAN, Clusters, cluster_codebook, codebook_rows
from tests.pipelines.tiny import TOKENIZER, random_params

CODES, PIECES = 20, 12
NETWORK = CogLM(
    vocab_size=CODES + PIECES + 3,
    grid=(3, 3),
    text_length=6,
    image_position=7,
    width=16,
    depth=2,
    heads=2,
    mlp_dim=24,
)


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
    vqgan = random_params(tokenizer, 1)
    # Weights of another size for CogLM: in sandwich norms small ones vanish, and every token must matter.
    coglm = random_params(NETWORK, 0, scale=1.0)
    decoding = CogLMDecoding(top_clusters=4, candidates=3, text_weight=0.5, infill_text_weight=0.7)
    clusters: Clusters = cluster_codebook(np.asarray(codebook_rows(tokenizer, vqgan)), 6)
    return CogView2Pipeline(text_pieces(), Stage(NETWORK, coglm, tokenizer, vqgan, decoding), clusters)
