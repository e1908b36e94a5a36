"""The pipeline against its parts put together by hand; seeds, compilations, progress."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling import mask_free_edit, masked_decode
from tests.systems.muse.tiny import tiny_pipeline

PROMPTS = ["a red heart", "a dog"]
BASE_CELLS, HIGH_CELLS, PATCH = 16, 64, 4


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def generated(pipe):
    return pipe.generate(PROMPTS)


def logits_fn(stage, conditions, scale, low=()):
    """Guidance by two passes: (1 + s) conditional - s unconditional, s growing linearly."""
    params = jax.tree.map(jnp.asarray, stage.params)

    def fn(tokens, fraction):
        passes = [stage.network.apply({"params": params}, tokens, *low, *c) for c in conditions]
        return (1 + scale * fraction) * passes[0] - scale * fraction * passes[1]

    return fn


@functools.cache
def jitted(function, **static):
    """One compilation of a part, whichever test asks."""
    return jax.jit(functools.partial(function, **static))


def text_states(pipe, texts):
    encoder = pipe.text_encoder
    ids, mask = encoder.tokenize(texts)
    return jitted(encoder.module.apply)({"params": encoder.params}, ids, mask), jnp.asarray(mask)


def encode(stage, images):
    ids = jitted(stage.tokenizer.encode)(stage.tokenizer_params, images)
    return ids.reshape(len(images), -1)


def decode(stage, tokens):
    ids = tokens.reshape(len(tokens), *stage.network.grid)
    pixels = jitted(stage.tokenizer.decode)(stage.tokenizer_params, ids)
    return np.asarray(np.round(np.clip((np.asarray(pixels) + 1) * 127.5, 0, 255)), np.uint8)


@pytest.fixture(scope="module")
def by_hand(pipe):
    """`redraw(seed, tokens, high)` draws the masked tokens of both stages for PROMPTS, against "blue"."""
    base, superres = pipe.base, pipe.superres
    conditions = text_states(pipe, PROMPTS), text_states(pipe, ["blue", "blue"])

    @jax.jit
    def tokens_of(seed, tokens, high):
        keys = jax.random.split(jax.random.key(seed))
        common = {"temperature": 0.9, "order": "confidence", "choice_temperature": 2.0}
        tokens = masked_decode(
            logits_fn(base, conditions, 1.5), tokens, keys[0], mask_id=16, num_steps=3, **common
        )
        high = masked_decode(
            logits_fn(superres, conditions, 1.5, (tokens,)), high, keys[1], mask_id=24, num_steps=2, **common
        )
        return tokens, high

    return lambda *arguments: decode(superres, np.asarray(tokens_of(*arguments)[1]))


HAND = {"negative_prompt": "blue", "guidance_scale": 1.5, "temperature": 0.9, "choice_temperature": 2.0}
HAND |= {"order": "confidence"}
HAND |= {f"superres_{name}": value for name, value in HAND.items() if name != "negative_prompt"}


def assert_same_images(a, b):
    """Equal but for the rounding of a float next to a half."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    assert np.abs(a.astype(int) - b).max() <= 1


class TestGenerate:
    def test_gives_uint8_images_of_the_size_it_tells(self, pipe, generated):
        assert generated.dtype == np.uint8 and generated.shape == (2, *pipe.image_size, 3) == (2, 32, 32, 3)

    def test_equals_its_parts_put_together_by_hand(self, pipe, by_hand):
        tokens, high = np.full((2, BASE_CELLS), 16), np.full((2, HIGH_CELLS), 24)
        assert_same_images(pipe.generate(PROMPTS, seed=5, **HAND), by_hand(5, tokens, high))

    def test_same_seed_same_images_other_seed_others(self, pipe, generated):
        np.testing.assert_array_equal(pipe.generate(PROMPTS, seed=0), generated)
        assert (pipe.generate(PROMPTS, seed=1) != generated).mean() > 0.2

    def test_one_compilation_a_shape(self, pipe, generated, compilations):
        heard = []
        pipe.generate(["x", "y"], negative_prompt="red", temperature=0.5, superres_guidance_scale=1, seed=9)
        pipe.generate(["x", "y"], guidance_scale=7, temperature=0, seed=2**32 - 1, progress=heard.append)
        pipe.generate(["x", "y"], progress=lambda step: None)
        assert len(heard) == 5 and compilations == []
        alone = pipe.generate(PROMPTS[:1])
        assert len(compilations) == 1
        pipe.generate(["z"], seed=4)
        assert len(compilations) == 1
        # Image 0 hangs on its own prompt, the seed and 0, not on how many others there are.
        assert_same_images(alone, generated[:1])

    def test_image_does_not_hang_on_the_other_prompts(self, pipe, generated):
        other = pipe.generate([PROMPTS[0], "a green tree"])
        assert_same_images(other[:1], generated[:1])
        assert (other[1] != generated[1]).mean() > 0.05

    def test_progress_hears_every_step_in_order(self, pipe, generated):
        steps = []
        again = pipe.generate(PROMPTS, progress=steps.append)
        told = [(step.stage, step.step, step.num_steps) for step in steps]
        assert told == [("base", t, 3) for t in (1, 2, 3)] + [("superres", t, 2) for t in (1, 2)]
        assert len(steps) == pipe.count_steps()
        np.testing.assert_array_equal(again, generated)

    def test_several_samples_of_a_prompt_have_an_axis_of_their_own(self, pipe):
        several = pipe.generate(PROMPTS[:1], num_samples=2)
        assert several.shape == (1, 2, 32, 32, 3)
        assert_same_images(several[0], pipe.generate(PROMPTS[:1] * 2))

    def test_an_error_in_progress_is_raised(self, pipe, generated):
        def fail(step):
            raise RuntimeError("no more paper")

        with pytest.raises(RuntimeError, match="no more paper"):
            pipe.generate(PROMPTS, progress=fail)

    def test_without_superres_the_base_images(self, pipe):
        small = dataclasses.replace(pipe, superres=None)
        generated = small.generate(PROMPTS[:1], num_steps=2)
        assert generated.shape == (1, 16, 16, 3) and small.count_steps(num_steps=2) == 2
        with pytest.raises(ValueError, match="superres_num_steps is 4, but this MusePipeline has no such"):
            small.generate(PROMPTS, superres_num_steps=4)


class TestInpaint:
    # Off the grid of tokens on purpose: rows 10..20 touch the patches 2..5, columns 6..12 the patches 1..3.
    MASK = np.zeros((32, 32), bool)
    MASK[10:21, 6:13] = True

    def options(self):
        return {"seed": 5, **HAND}

    def test_equals_its_parts_put_together_by_hand(self, pipe, generated, by_hand):
        images = generated.astype(np.float32) / 127.5 - 1
        small = (
            images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]
        ) / 4
        tokens = np.array(encode(pipe.base, small)).reshape(2, 4, 4)
        tokens[:, 1:3, 0:2] = 16
        high = np.array(encode(pipe.superres, images)).reshape(2, 8, 8)
        high[:, 2:6, 1:4] = 24
        drawn = by_hand(5, tokens.reshape(2, -1), high.reshape(2, -1))
        expected = np.where(self.MASK[..., None], drawn, generated)
        assert_same_images(pipe.inpaint(generated, self.MASK, PROMPTS, **self.options()), expected)

    def test_a_whole_mask_generates_and_an_empty_one_does_nothing(self, pipe, generated):
        everything = np.stack([np.ones((32, 32), bool), np.zeros((32, 32), bool)])
        out = pipe.inpaint(generated[::-1], everything, PROMPTS, **self.options())
        assert_same_images(out[:1], pipe.generate(PROMPTS, **self.options())[:1])
        np.testing.assert_array_equal(out[1], generated[0])

    def test_outpaint_keeps_the_images_and_draws_the_border(self, pipe, generated):
        inner = generated[:, 4:28, :20]
        out = pipe.outpaint(inner, (4, 4, 12, 0), PROMPTS, **self.options())
        np.testing.assert_array_equal(out[:, 4:28, 12:], inner)
        canvas, mask = np.zeros_like(generated), np.ones((32, 32), bool)
        canvas[:, 4:28, 12:], mask[4:28, 12:] = inner, False
        canvas[:, 4:28, :12] = inner[:, :, :1]
        canvas[:, :4], canvas[:, 28:] = canvas[:, 4:5], canvas[:, 27:28]
        np.testing.assert_array_equal(out, pipe.inpaint(canvas, mask, PROMPTS, **self.options()))


class TestEdit:
    def test_equals_its_parts_put_together_by_hand(self, pipe, generated):
        old = ["a cat", "the moon"]
        images = generated.astype(np.float32) / 127.5 - 1
        small = images.reshape(2, 16, 2, 16, 2, 3).mean((2, 4))
        conditions = text_states(pipe, PROMPTS), text_states(pipe, old)

        @jax.jit
        def edited(tokens, high):
            keys = jax.random.split(jax.random.key(3))
            after = mask_free_edit(
                lambda tokens, _: logits_fn(pipe.base, conditions, 4.0)(tokens, 1.0),
                tokens,
                keys[0],
                mask_id=16,
                num_steps=5,
                edit_ratio=0.1,
                top_k=2,
            )
            changed = (after != tokens).reshape(2, 4, 4).repeat(2, 1).repeat(2, 2).reshape(2, -1)
            fn = logits_fn(pipe.superres, conditions, 4.0, (after,))
            high = jnp.where(changed, 24, high)
            drawn = masked_decode(fn, high, keys[1], mask_id=24, num_steps=2, order="halton", grid=(8, 8))
            return after, drawn, changed

        _, drawn, changed = edited(encode(pipe.base, small), encode(pipe.superres, images))
        assert 0 < np.mean(changed) < 1
        out = pipe.edit(
            generated,
            PROMPTS,
            old,
            num_steps=5,
            edit_ratio=0.1,
            top_k=2,
            guidance_scale=4.0,
            superres_guidance_scale=4.0,
            temperature=1.0,
            seed=3,
        )
        assert_same_images(out, decode(pipe.superres, np.asarray(drawn)))
