"""Compares a tiny pipeline, muse, cogview2 or nuwa, on eight devices with the same on one.

Tests run it in a process of its own, with the pipeline's name as its argument.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

from muse_jax.sharding.partitioning import make_mesh
from tests.systems.cogview2.tiny import whole_cogview2
from tests.systems.muse.tiny import tiny_pipeline
from tests.systems.nuwa.test_pipeline import make as tiny_nuwa

PROMPTS = ["a red heart", "a blue dog", "a tree", "a bee"]


def muse(pipe):
    """Four prompts, which data=2 and fsdp=2 divide, and one alone, which they do not."""
    images = pipe.generate(PROMPTS, num_steps=2, superres_num_steps=1)
    mask = np.zeros((32, 32), bool)
    mask[:, 16:] = True
    return images, pipe.inpaint(images[:1], mask, PROMPTS[1:2], num_steps=1, superres_num_steps=1)


def cogview2(pipe):
    """One prompt, several candidates of which are split over the devices."""
    images = pipe.generate(["a bee"], num_candidates=4, num_samples=2)
    return images, pipe.score(images[0], ["a bee"] * 2)


def nuwa(pipe):
    """Videos of four prompts, and one continued."""
    videos = pipe.generate_video(PROMPTS)
    return videos, pipe.predict(videos[:1, :1])


def main() -> None:
    """Prints how many values of each result differ, and which share of its widest weight a device has."""
    pipelines = {
        "muse": (tiny_pipeline, muse, "base"),
        "cogview2": (whole_cogview2, cogview2, "coarse"),
        "nuwa": (tiny_nuwa, nuwa, "base"),
    }
    make, run, network = pipelines[sys.argv[1]]
    pipe = make()
    sharded = dataclasses.replace(pipe, mesh=make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    pairs = zip(run(pipe), run(sharded), strict=True)
    # Of images, which are whole numbers up to 255, this allows no difference.
    differing = [int((~np.isclose(one, eight, rtol=1e-3, atol=0)).sum()) for one, eight in pairs]
    leaf = max(jax.tree.leaves(sharded.params[network]), key=lambda leaf: leaf.size)
    print(json.dumps([differing, leaf.addressable_shards[0].data.size / leaf.size]))


if __name__ == "__main__":
    sys.exit(main())
