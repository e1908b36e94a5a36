"""The evaluator of concepts and styles, with features that are the pixels themselves."""

from types import SimpleNamespace

import numpy as np
import pytest

from muse_jax.evaluation import retrieval
from muse_jax.evaluation.evaluators import Context, make_evaluator
from muse_jax.sharding.partitioning import one_device_mesh

SIDE = 4
CONCEPTS, STYLES = ("cat", "dog", "sun", "sea", "oak"), ("noto", "flat")
SHOWN = {"train": 8, "heldout_pairs": 1, "heldout_concepts": 1}


def image(concept, style):
    """The concept decides the upper half, the style the lower one."""
    top = np.random.default_rng(CONCEPTS.index(concept)).integers(0, 256, (SIDE // 2, SIDE, 3))
    bottom = np.full((SIDE // 2, SIDE, 3), 40 + 120 * STYLES.index(style))
    return np.concatenate([top, bottom]).astype(np.uint8)


def records():
    """Two styles of each of five concepts: eight in train, one pair and one concept held out."""
    pairs = [(concept, style) for concept in CONCEPTS for style in STYLES]
    found, start = {}, 0
    for split, count in SHOWN.items():
        some = pairs[start : start + count]
        found[split] = [{"concept": c, "style": s, "image": image(c, s)} for c, s in some]
        start += count
    return found


class Task:
    """Generates what `show` says for each record."""

    traced = False

    def __init__(self, show):
        self.show = show

    def eval_loader(self, split):
        count = SHOWN[split]
        for start in range(0, count, 4):
            index = np.arange(start, start + 4)[::-1]
            self.records = [records()[split][i % count] for i in index]
            yield {"index": index % count, "example_mask": index < count}

    def sample(self, params, frozen, batch, key):
        return np.stack([self.show(record) for record in self.records])


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(retrieval, "load_source", lambda source, split, data_dir: records()[split])

    def halves(images):
        return np.split(np.stack(list(images)).astype(np.float32), 2, axis=1)

    def centred(images):
        return halves(images)[0].reshape(len(images), -1) - 128

    def lower(images):
        return halves(images)[1].reshape(len(images), -1)

    monkeypatch.setattr(retrieval, "extract_features", centred)
    monkeypatch.setattr(retrieval, "extract_style_features", lower)

    def run(show, **options):
        data = SimpleNamespace(source="emoji", data_dir="", image_size=SIDE)
        context = Context(
            Task(show), SimpleNamespace(data=data, eval_every=0, task="base"), one_device_mesh()
        )
        given = {"splits": ("train",), "pairs": 8, **options}
        return make_evaluator("retrieval", given, context)({}, {})

    return run


def test_a_task_that_shows_the_real_images_is_perfect(run):
    report = run(lambda record: record["image"])
    assert report.scores == {"train/top1": 1, "train/top5": 1, "train/style": 1}
    table = report.details["table"]["train"]
    assert table["generated"]["count"] == 8 and table["generated"]["median_rank"] == 1
    assert table["floor"]["top1"] < 1
    assert table["ceiling"]["top1"] == 1  # the other style has the same upper half
    assert report.details["style_of_real_images"] == {"heldout_pairs": 1, "heldout_concepts": 1}


def test_images_of_another_concept_or_style_are_found_out(run):
    after = dict(zip(CONCEPTS, [*CONCEPTS[1:], CONCEPTS[0]], strict=True))
    report = run(lambda record: image(after[record["concept"]], record["style"]))
    assert report.scores["train/top1"] == 0 and report.scores["train/style"] == 1
    other = {"noto": "flat", "flat": "noto"}
    report = run(lambda record: image(record["concept"], other[record["style"]]))
    assert report.scores["train/top1"] == 1 and report.scores["train/style"] == 0


def test_the_sheet_has_each_real_image_beside_the_generated_one(run):
    sheet = run(lambda record: 255 - record["image"], pairs=5).images["train"]
    assert len(sheet) == 10
    np.testing.assert_array_equal(sheet[0::2], 255 - sheet[1::2])


def test_mistakes_are_refused(run, monkeypatch):
    with pytest.raises(ValueError, match="pairs' is 1, but it must be at least 2"):
        run(lambda record: record["image"], pairs=1)
    with pytest.raises(ValueError, match="without 'test'"):
        run(lambda record: record["image"], splits=("train", "test"))
    monkeypatch.setattr(retrieval, "load_source", lambda *_: [{"image": image("cat", "noto")}])
    with pytest.raises(ValueError, match="needs the concept and style of each image"):
        run(lambda record: record["image"])
