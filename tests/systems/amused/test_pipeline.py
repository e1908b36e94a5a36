"""The aMUSEd pipeline against its parts, with random weights; test_diffusers.py has the comparison."""

import jax
import numpy as np
import pytest

from muse_jax import load_pipeline
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.systems.amused import programs
from muse_jax.systems.amused.sampling import AmusedSampling
from tests.systems.amused.tiny import NETWORK, TOKENIZER, tiny_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def images(pipe):
    return pipe.generate(["red car", "blue"])


def test_saved_and_loaded_it_draws_the_same(pipe, images, tmp_path):
    sizes = pipe.save_pretrained(tmp_path, "float32")
    assert set(sizes) == {
        "config.json",
        "transformer.safetensors",
        "vqvae.safetensors",
        "text_encoder.safetensors",
        "tokenizer.json",
    }
    loaded = load_pipeline(tmp_path)
    assert loaded.modules == pipe.modules
    steps = []
    np.testing.assert_array_equal(loaded.generate(["red car", "blue"], progress=steps.append), images)
    assert [(step.stage, step.step, step.num_steps) for step in steps] == [
        ("transformer", i, 3) for i in (1, 2, 3)
    ]
    assert steps[-1].masked == 0


def test_prompt_seed_and_guidance_matter(pipe, images):
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8
    assert (images[0] != images[1]).any()
    assert (pipe.generate(["red car", "green"])[0] == images[0]).all()
    assert (pipe.generate(["red car", "blue"], seed=1) != images).any()
    assert (pipe.generate(["red car", "blue"], guidance_scale=1.0) != images).any()
    assert (pipe.generate(["red car", "blue"], negative_prompt="red car") != images).any()


def test_guidance_mixes_two_passes_of_the_whole_network(pipe):
    """In diffusers' convention: without + scale (with - without)."""
    rng, sampling = np.random.default_rng(0), AmusedSampling(guidance_scale=3.0)
    given, null = (
        tuple(rng.normal(size=(rows, *shape)).astype(np.float32) for shape in ((5, 16), (16,)))
        for rows in (2, 1)
    )
    tokens = rng.integers(0, 20, (2, NETWORK.num_tokens))
    params = pipe.transformer.params

    @jax.jit
    def both(params):
        mixed = programs.guided_logits(NETWORK, params, given, null, sampling, (8, 8))(tokens, 1.0)
        micro = programs.micro_conditions(sampling, (8, 8), 2)
        passes = [
            NETWORK.apply(
                {"params": params}, tokens, *(np.resize(part, (2, *part.shape[1:])) for part in text), micro
            )
            for text in (given, null)
        ]
        return mixed, passes

    mixed, (with_text, without) = both(params)
    np.testing.assert_allclose(mixed, without + 3 * (with_text - without), rtol=1e-4, atol=1e-4)
    assert np.abs(with_text - without).max() > 0.1


@pytest.mark.slow
def test_inpainting_keeps_the_other_pixels(pipe):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[3:, :5] = True
    drawn = pipe.inpaint(images, mask, ["red", "blue"])
    assert (drawn[:, ~mask] == images[:, ~mask]).all()
    assert (drawn[:, mask] != images[:, mask]).any()


@pytest.mark.slow
def test_image_to_image_keeps_the_tokens_that_are_not_masked(pipe):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    params = pipe.params["transformer_tokenizer"]
    known = np.asarray(TOKENIZER.encode(params, to_unit_range(images))).reshape(2, -1)
    # After the second of three steps cos(pi/3) = 1/2 of the tokens are masked.
    noise = jax.random.uniform(jax.random.fold_in(jax.random.key(0), 3), known.shape)
    request = pipe._request(["red", "blue"], None, {})
    tokens = np.asarray(
        programs.image_to_image_tokens(pipe.modules, request, images, first_step=2, seed=np.uint32(0))
    )
    kept = np.asarray(noise) >= 0.5
    np.testing.assert_array_equal(tokens[kept], known[kept])
    assert tokens.max() < NETWORK.codebook_size
    expected = from_unit_range(TOKENIZER.decode(params, tokens.reshape(2, 4, 4)))
    found = pipe.image_to_image(images, ["red", "blue"], strength=1 / 3)
    assert np.abs(found.astype(int) - np.asarray(expected, int)).max() <= 1


def test_bad_arguments(pipe, images):
    with pytest.raises(ValueError, match=r"strength 0\.2 of 3 steps is less than one"):
        pipe.image_to_image(images, ["a", "b"], strength=0.2)
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1"):
        pipe.inpaint(images, np.ones((8, 8), bool), ["a", "b"], strength=2)
    with pytest.raises(ValueError, match="has no such sampling parameter"):
        pipe.generate(["a"], temperature=2)
    with pytest.raises(ValueError, match="guidance_scale must be a number of 0 or greater"):
        AmusedSampling().override(guidance_scale=-1)
