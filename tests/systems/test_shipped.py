"""The checkpoints that come with the package."""

import dataclasses

import pytest

from muse_jax.checkpointing.pretrained import pretrained_directory
from muse_jax.systems.base import load_pipeline


@pytest.mark.parametrize(
    "name, size", [("icons", (128, 128)), ("emoji", (128, 128)), ("emoji-cogview2", (192, 192))]
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
