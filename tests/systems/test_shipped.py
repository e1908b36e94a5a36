"""The checkpoints that come with the package."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.checkpointing.pretrained import pretrained_directory
from muse_jax.evaluation.clips import direction_of
from muse_jax.systems.base import load_pipeline


@pytest.mark.parametrize(
    "name, size",
    [("icons", (128, 128)), ("emoji", (128, 128)), ("emoji-cogview2", (192, 192)), ("motion", (64, 64))],
)
def test_a_shipped_checkpoint_loads_with_all_stages_from_at_most_48_mb(name, size):
    assert load_pipeline(name).image_size == size
    files = list(pretrained_directory(name).iterdir())
    assert sum(file.stat().st_size for file in files) <= 48e6
    assert pretrained_directory(name) / "README.md" in files


@pytest.mark.slow
def test_the_shipped_weights_draw_the_colour_of_the_prompt():
    """Of red, green and blue hearts and circles, the channel that is brightest on average."""
    pipeline = dataclasses.replace(load_pipeline("emoji"), superres=None)
    prompts = [
        f"a twemoji emoji of a {colour} {thing}"
        for thing in ("heart", "circle")
        for colour in ("red", "green", "blue")
    ]
    images = pipeline.generate(prompts, seed=0)
    assert images.mean((1, 2)).argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.slow
def test_the_shipped_weights_move_what_the_prompt_names_as_it_says():
    """At least half of twelve clips, of eight directions that are told apart."""
    things = ("noto emoji of a grinning face", "noto emoji of a red apple", "twemoji emoji of a yellow heart")
    wanted = ["left", "right", "up", "down"] * len(things)
    prompts = [f"a {thing} moving {direction}" for thing in things for direction in wanted[:4]]
    clips = load_pipeline("motion").generate_video(prompts, seed=0, guidance_scale=2.0)
    right = [direction_of(clip) == direction for clip, direction in zip(clips, wanted, strict=True)]
    assert sum(right) >= 6


@pytest.mark.slow
def test_the_shipped_ranker_tells_weather_icons_apart():
    """Videos of four prompts find their own prompt."""
    prompts = [
        f"a {style} weather icon of an overcast {time} with rain"
        for style in ("flat", "monochrome")
        for time in ("day", "night")
    ]
    pipe = load_pipeline("motion")
    clips = pipe.generate_video(prompts, seed=0)
    encoder, ranker = pipe.text_encoder, pipe.ranker
    text, params = jax.tree.map(jnp.asarray, (encoder.params, ranker.params))
    ids, mask = encoder.tokenize(prompts)
    states = jax.jit(encoder.module.apply)({"params": text}, ids, mask)
    videos, texts = jax.jit(ranker.network.apply)({"params": params}, clips, states, mask)
    assert np.argmax(videos @ texts.T, axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_shipped_weights_draw_weather_in_the_style_of_the_prompt():
    """Flat icons are on a dark background, those of one color on white."""
    prompts = ["a flat weather icon of an overcast night", "a monochrome weather icon of an overcast night"]
    flat, monochrome = (
        load_pipeline("motion").generate_video(prompts, seed=0)[:, :, :8, :8].mean((1, 2, 3, 4))
    )
    assert flat < 80 and monochrome > 220
