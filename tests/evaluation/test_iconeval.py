"""IconEval: right on real compositions, wrong as soon as one attribute of the image is changed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from muse_jax.data.icons import BACKGROUNDS, FOREGROUNDS, compose
from muse_jax.data.icons.compose import Mask
from muse_jax.data.icons.palette import BACKGROUNDS_FOR, PARTNERS_FOR
from muse_jax.evaluation.evaluators import Context, make_evaluator
from muse_jax.evaluation.icon_measures import measure
from muse_jax.evaluation.iconeval import icon_eval, sample_records, score_image
from muse_jax.media.image import resize
from muse_jax.sharding.partitioning import one_device_mesh


def mask(name):
    """A disc, a thin ring, a cross, a two-tone tile or two dots, as large as a stored mask."""
    image = Image.new("L", (128, 128))
    draw = ImageDraw.Draw(image)
    if name == "disc":
        draw.ellipse((4, 4, 123, 123), fill=255)
    elif name == "ring":
        draw.ellipse((4, 4, 123, 123), outline=255, width=6)
    elif name == "cross":
        draw.line((4, 4, 123, 123), fill=255, width=14)
        draw.line((4, 123, 123, 4), fill=255, width=14)
    elif name == "tile":
        draw.rectangle((4, 4, 123, 123), fill=70, outline=255, width=9)
    else:
        draw.ellipse((4, 40, 50, 86), fill=255)
        draw.ellipse((77, 40, 123, 86), fill=255)
    return Mask(image, f"set/{name}", name, "", 2 if name == "dots" else 1)


MASKS = [mask(name) for name in ("disc", "ring", "cross", "tile")]


def compositions(count):
    rng = np.random.default_rng(0)
    colours = list(FOREGROUNDS)
    for i in range(count):
        shape, colour = MASKS[i % 4], colours[i % 11]
        yield compose.compose_single(mask("dots") if i % 5 == 0 else shape, colour, rng)
        yield compose.compose_count(shape, colour, 2 + i % 3, rng)
        partners = [p for p in PARTNERS_FOR[colour] if {*BACKGROUNDS_FOR[p]} & {*BACKGROUNDS_FOR[colour]}]
        relation, partner = list(compose.RELATIONS)[i % 4], partners[i % len(partners)]
        yield compose.compose_pair(shape, colour, relation, MASKS[(i + 1) % 4], partner, rng)


@pytest.fixture(scope="module")
def records():
    return [{**record, "image": np.asarray(record["image"])} for record in compositions(66)]


@pytest.mark.parametrize("size", [128, 64])
def test_measures_are_right_on_real_images(records, size):
    scores = icon_eval([resize(record["image"], size) for record in records], records)
    assert scores.pop("images") == len(records)
    assert set(scores) == {"background", "foreground", "size", "position", "count", "relation", "all"}
    assert min(scores.values()) >= 0.98, scores


def test_every_colour_is_told_on_every_background_it_stands_out_from():
    for colour, backgrounds in BACKGROUNDS_FOR.items():
        for background in backgrounds:
            image = Image.new("RGB", (128, 128), BACKGROUNDS[background])
            image.paste(FOREGROUNDS[colour], (0, 0), MASKS[1].alpha)
            found = measure(np.asarray(image))
            assert (found.background, found.regions[0].foreground) == (background, colour)


def first(records, kind, **wanted):
    return next(r for r in records if r["kind"] == kind and all(r[k] == v for k, v in wanted.items()))


def test_mirrored_pair_has_another_relation(records):
    record = first(records, "pair", relation="left of")
    mirrored = score_image(record["image"][:, ::-1], record)
    assert mirrored == {"background": True, "foreground": True, "relation": False}
    upright = first(records, "pair", relation="above")
    assert score_image(upright["image"][::-1], upright)["relation"] is False
    assert score_image(upright["image"][:, ::-1], upright)["relation"] is True


def test_exchanged_channels_change_the_colours_alone(records):
    record = first(records, "single", foreground="red", background="white")
    scores = score_image(record["image"][..., ::-1], record)
    assert scores == {"background": True, "foreground": False, "size": True, "position": True}


def test_one_copy_less_is_another_number(records):
    record = first(records, "count", count=3)
    ink = np.abs(record["image"].astype(int) - record["image"][0, 0]).max(-1) > 4
    labels, _ = ndimage.label(ndimage.binary_dilation(ink, iterations=2))
    erased = np.where((labels == 1)[..., None], record["image"][0, 0], record["image"])
    assert score_image(record["image"], record)["count"]
    assert not score_image(erased, record)["count"]


def test_moved_and_shrunk_icon_is_found_elsewhere_and_smaller(records):
    record = first(records, "single", size="medium", position="center")
    image = record["image"]
    half = np.full_like(image, image[0, 0])
    half[:64, :64] = resize(image, 64)
    scores = score_image(half, record)
    assert not scores["size"] and not scores["position"] and scores["foreground"] and scores["background"]
    found = measure(half)
    assert (found.size, found.position) == ("small", "top left")


def test_empty_image_has_nothing(records):
    empty = np.full((128, 128, 3), 255, np.uint8)
    found = measure(empty)
    assert found.background == "white" and found.regions == () and found.count == 0
    for kind in ("single", "pair", "count"):
        assert not any(
            value for name, value in score_image(empty, first(records, kind)).items() if name != "background"
        )


def test_bad_input_is_refused(records):
    with pytest.raises(ValueError, match="use kinds single, pair and count"):
        score_image(records[0]["image"], {"kind": "art"})
    with pytest.raises(ValueError, match="1 images of 2 records"):
        icon_eval([records[0]["image"]], records[:2])


def test_measures_are_right_on_the_real_data():
    if not Path("data/icons").is_dir():
        pytest.skip("the icons data is not built: run `python -m experiments.prepare_data`")
    for split in ("train", "heldout_relations", "heldout_counts"):
        records = sample_records(split, 200, 0, "data")
        scores = icon_eval([record["image"] for record in records], records)
        assert min(value for name, value in scores.items() if name != "images") >= 0.97, (split, scores)


class Task:
    """Generates the real image of each caption, upside down if asked."""

    traced = False

    def __init__(self, records, flipped=False):
        self.records, self.flipped = records, flipped

    def eval_loader(self, split):
        for start in range(0, len(self.records), 4):
            index = np.arange(start, start + 4)
            yield {"index": index % len(self.records), "example_mask": index < len(self.records)}

    def sample(self, params, frozen, batch, key):
        images = np.stack([self.records[index]["image"] for index in batch["index"]])
        return images[:, ::-1] if self.flipped else images


def evaluate(monkeypatch, records, source="icons", **options):
    monkeypatch.setattr("muse_jax.evaluation.iconeval.load_source", lambda *_: records)
    data = SimpleNamespace(source=source, data_dir="", eval_split="test")
    task = Task(records, options.pop("flipped", False))
    context = Context(task, SimpleNamespace(data=data, eval_every=0, task="base"), one_device_mesh())
    return make_evaluator("iconeval", options, context)({}, {})


def test_the_evaluator_scores_the_first_images_that_have_attributes(monkeypatch, records):
    drawings = [{"kind": "art", "image": np.zeros_like(records[0]["image"])}] * 3
    some = [*drawings, *records[:18]]
    report = evaluate(monkeypatch, some, images=15)
    expected = icon_eval([record["image"] for record in records[:15]], records[:15])
    assert report.details["splits"]["test"] == expected and expected["images"] == 15
    assert report.scores == {f"test/{name}": value for name, value in expected.items() if name != "images"}
    flipped = evaluate(monkeypatch, some, images=15, flipped=True)
    assert flipped.scores["test/all"] < report.scores["test/all"]
    assert flipped.scores["test/background"] == report.scores["test/background"]


def test_the_evaluator_refuses_other_data_and_too_many_images(monkeypatch, records):
    with pytest.raises(
        ValueError, match="measures the data source 'icons', but config.data.source is 'emoji'"
    ):
        evaluate(monkeypatch, records[:4], source="emoji")
    with pytest.raises(ValueError, match="test has 4 images in one colour"):
        evaluate(monkeypatch, records[:4], images=5)
