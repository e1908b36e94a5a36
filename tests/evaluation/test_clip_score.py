from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax.evaluation import clip_score
from muse_jax.evaluation.evaluators import Context, make_evaluator
from muse_jax.nn.clip import MEAN, STD, CLIPText, CLIPVision
from muse_jax.nn.shapes import abstract_params
from muse_jax.sharding.partitioning import one_device_mesh

VISION = CLIPVision(16, 1, 2, 16, patch=8, image_size=16, projection=5)
TEXT = CLIPText(30, 16, 1, 2, 16, max_positions=6, projection=5)


class Task:
    """Five captions, the image of each of one brightness."""

    def eval_loader(self, split):
        for start in (0, 3):
            index = np.arange(start, start + 3)
            yield {"index": index % 5, "example_mask": index < 5}

    def sample(self, params, frozen, batch, key):
        return jnp.broadcast_to(batch["index"][:, None, None, None] * 40, (3, 16, 16, 3)).astype(jnp.uint8)


def tokenize(captions):
    ids = np.array([[int(caption.split()[-1]) + k for k in range(6)] for caption in captions])
    return ids, np.full(len(captions), 3)


def random_params(module, *arguments):
    shapes = abstract_params(module, *arguments)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(0, 0.5, leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.fixture
def context(monkeypatch):
    vision = random_params(VISION, jnp.zeros((1, 16, 16, 3)))
    text = random_params(TEXT, jnp.zeros((1, 6), jnp.int32), jnp.zeros(1, jnp.int32))
    monkeypatch.setattr(clip_score, "load_clip_vision", lambda _: (VISION, vision))
    monkeypatch.setattr(clip_score, "load_clip_text", lambda _: (TEXT, text))
    monkeypatch.setattr(clip_score, "load_clip_tokenizer", lambda _: tokenize)
    records = [{"captions": [f"number {i}"]} for i in range(5)]
    monkeypatch.setattr(clip_score, "load_source", lambda *_: records)
    data = SimpleNamespace(source="numbers", data_dir="", eval_split="val")
    return Context(Task(), SimpleNamespace(data=data, eval_every=0, task="numbers"), one_device_mesh())


def test_score_is_the_mean_cosine_of_images_with_their_captions(context):
    with jax.set_mesh(context.mesh):
        report = make_evaluator("clip_score", {"weights": "folder"}, context)({}, {})
    evaluator = make_evaluator("clip_score", {"weights": "folder"}, context)
    expected = []
    for i in range(5):
        image = np.asarray(Image.new("RGB", (16, 16), (40 * i,) * 3), np.float32) / 255
        left = VISION.apply({"params": evaluator._clip["vision"]}, ((image - MEAN) / STD)[None].astype("f4"))[
            0
        ]
        ids, end = tokenize([f"number {i}"])
        right = TEXT.apply({"params": evaluator._clip["text"]}, ids, end)[1][0]
        cosine = float(left @ right / jnp.linalg.norm(left) / jnp.linalg.norm(right))
        expected.append(max(100 * cosine, 0))
    assert report.scores["clip_score"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert report.details["num_samples"] == 5


def test_a_score_without_weights_is_refused(context):
    with pytest.raises(ValueError, match="weights' is '', but it must be the folder of a CLIP"):
        make_evaluator("clip_score", {}, context)
