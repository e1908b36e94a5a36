"""What a person may get wrong: one sentence each, before any program runs."""

import numpy as np
import pytest

from muse_jax.systems.muse import programs
from tests.systems.muse.tiny import tiny_pipeline

IMAGES = np.zeros((1, 32, 32, 3), np.uint8)
MASK = np.zeros((32, 32), bool)


@pytest.fixture(autouse=True)
def no_program(monkeypatch):
    """Any device work is a failure."""

    def fail(*arguments, **options):
        raise AssertionError("a program ran")

    for name in ("generate", "inpaint", "edit"):
        monkeypatch.setattr(programs, name, fail)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ([[]], {}, "prompts is an empty list"),
        (["a red heart"], {}, "prompts must be a list of strings, such as .* given 'a red heart'"),
        ([None], {}, "prompts must be a list of strings"),
        ([["a", 3]], {}, "number 1 is 3 of type int"),
        ([["a"]], {"negative_prompt": ["b"]}, r"negative_prompt must be one string or None, given \['b'\]"),
        ([["a"]], {"num_steps": 0}, "num_steps must be a whole number of at least 1, given 0"),
        ([["a"]], {"num_steps": 2.5}, "num_steps must be a whole number of at least 1, given 2.5"),
        ([["a"]], {"superres_num_steps": 0}, "num_steps must be a whole number of at least 1, given 0"),
        ([["a"]], {"guidance_scale": -1}, "guidance_scale must be a number of 0 or greater, given -1"),
        ([["a"]], {"guidance_scale": float("nan")}, "guidance_scale must be a number .* given nan"),
        ([["a"]], {"temperature": -0.5}, "temperature must be a number of 0 or greater, given -0.5"),
        ([["a"]], {"choice_temperature": "hot"}, "choice_temperature must be a number .* given 'hot'"),
        ([["a"]], {"order": "spiral"}, "order must be one of confidence, halton, given 'spiral'"),
        ([["a"]], {"num_samples": 0}, "num_samples must be a whole number of at least 1, given 0"),
        ([["a"]], {"steps": 3}, "steps is 3, but this MusePipeline has no such sampling parameter"),
        ([["a"]], {"seed": -1}, r"seed must be a whole number from 0 to 2\*\*32 - 1, given -1"),
    ],
)
def test_generate(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_pipeline().generate(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "images, mask, prompts, message",
    [
        (IMAGES[0], MASK, ["a"], r"images must be uint8 of shape \(batch, height, width, 3\)"),
        (IMAGES / 255, MASK, ["a"], "images must be uint8 .* given float64"),
        (IMAGES[:, :16], MASK, ["a"], "images are of 16x32 pixels, but this checkpoint generates 32x32"),
        (IMAGES, MASK[:16], ["a"], r"mask must be bool of shape \(1, 32, 32\) or \(32, 32\).* \(16, 32\)"),
        (IMAGES, MASK.astype(int), ["a"], "mask must be bool .* given int64"),
        (IMAGES, MASK, ["a", "b"], "prompts must be 1 strings, one for each image, given 2"),
    ],
)
def test_inpaint(images, mask, prompts, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline().inpaint(images, mask, prompts)


@pytest.mark.parametrize(
    "margins, message",
    [
        ((0, 0, 8), r"margins must be four whole numbers .* given \(0, 0, 8\)"),
        ((-1, 1, 0, 0), r"margins must be four whole numbers .* given \(-1, 1, 0, 0\)"),
        (
            (0, 0, 8, 8),
            r"32x32 pixels with margins \(0, 0, 8, 8\) make 32x48, but this checkpoint generates 32x32",
        ),
    ],
)
def test_outpaint(margins, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline().outpaint(IMAGES, margins, ["a"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"old_prompts": ["a", "b"]}, "old_prompts must be 1 strings"),
        ({"edit_ratio": 0}, "edit_ratio must be above 0 and at most 1, given 0"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, given 0"),
        ({"num_steps": -2}, "num_steps must be a whole number of at least 1, given -2"),
    ],
)
def test_edit(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline().edit(IMAGES, ["a"], **options)
