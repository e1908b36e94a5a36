"""The super-resolution decoders against the networks' full passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.lopar import lopar_decode
from muse_jax.systems.cogview2.sampling import BoundCogLM
from muse_jax.systems.cogview2.superres import iterative_from_coglm
from muse_jax.systems.cogview2.superres_sampling import refine_tokens, sample_fine_tokens
from tests.systems.cogview2.coglm_tiny import VOCABULARY, batch, params
from tests.systems.cogview2.test_superres import DIRECT, ITERATIVE, direct_params

TEXT, MASK, COARSE = batch()
CODES = VOCABULARY.image_codes
FINE = np.random.default_rng(3).integers(0, CODES, (4, 36)).astype(np.int32)
TURNS = np.arange(36) % 4 - 1  # two turns, and some that keep their token
EDITABLE = np.random.default_rng(4).random((4, 36)) < 0.7
KEY = jax.random.key(5)
WORDS = np.where(MASK, TEXT + CODES, VOCABULARY.pad)


def test_fine_tokens_are_drawn_from_the_full_pass_over_text_and_coarse_image():
    column = np.full((4, 1), VOCABULARY.pad)
    tokens = np.concatenate([WORDS, column, column + 1, COARSE], axis=1)
    ranks = np.concatenate([np.where(MASK, 0, -1), np.full((4, 1), -1), np.ones((4, 10), int)], axis=1)

    @jax.jit
    def run(params):
        drawn = sample_fine_tokens(
            BoundCogLM(DIRECT, params, VOCABULARY), TEXT, MASK, COARSE, KEY, sampling=Sampling(0.5)
        )
        return drawn, DIRECT.apply({"params": params}, tokens, ranks)

    drawn, logits = run(direct_params())
    noise = jax.random.gumbel(KEY, (4, 36, CODES))
    np.testing.assert_array_equal(drawn, np.argmax(2 * logits[..., :CODES] + noise, axis=-1))


def test_fine_tokens_are_redrawn_in_turns_from_the_full_pass_over_the_text_and_the_others():
    params_of_both, heard = iterative_from_coglm(params(), (3, 3), 2), []
    choices = {"steps": TURNS, "top_k": (7, 3), "temperature": 0.6, "editable": EDITABLE}

    @jax.jit
    def run(params):
        def full_pass(tokens):
            return ITERATIVE.apply({"params": params}, tokens, WORDS, MASK)[..., :CODES]

        drawn = refine_tokens(
            BoundCogLM(ITERATIVE, params, VOCABULARY),
            TEXT,
            MASK,
            FINE,
            KEY,
            **choices,
            on_step=heard.append,
        )
        return drawn, lopar_decode(full_pass, FINE, KEY, **choices, mask_id=VOCABULARY.start_of_image)

    drawn, expected = run(params_of_both)
    np.testing.assert_array_equal(drawn, expected)
    changed = EDITABLE & (TURNS >= 1)
    np.testing.assert_array_equal(drawn[~changed], FINE[~changed])
    assert (drawn != FINE)[changed].mean() > 0.5
    jax.effects_barrier()
    assert len(heard) == 2


def test_images_of_another_size_are_refused():
    model = BoundCogLM(DIRECT, {}, VOCABULARY)
    with pytest.raises(ValueError, match=r"image has shape \(4, 8\), but 4 texts and the grid 3x3"):
        sample_fine_tokens(model, TEXT, MASK, COARSE[:, 1:], KEY, sampling=Sampling())
    model = BoundCogLM(ITERATIVE, {}, VOCABULARY)
    with pytest.raises(ValueError, match=r"fine has shape \(4, 35\), but 4 texts and the grid 6x6"):
        refine_tokens(model, TEXT, MASK, jnp.asarray(FINE[:, 1:]), KEY, steps=TURNS, temperature=1.0)
