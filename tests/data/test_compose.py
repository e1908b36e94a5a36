"""Composed icons: captions agree with the pixels, and held-out combinations are never trained."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from muse_jax.data import CaptionTemplate, load_source, make_loader
from muse_jax.data.icons import BACKGROUNDS, FOREGROUNDS, SPLITS, compose
from muse_jax.data.icons.compose import Mask
from muse_jax.data.icons.palette import BACKGROUNDS_FOR, JITTER, PARTNERS_FOR, distance
from muse_jax.data.icons.phrases import art_captions, count_captions, pair_captions, single_captions

FULL = np.zeros((128, 128), np.uint8)
FULL[4:124, 4:124] = 255


def block(concept="block", weight="", parts=1):
    return Mask(Image.fromarray(FULL), f"set/{concept}", concept, weight, parts)


def is_colour(pixel, colour):
    return np.abs(np.asarray(pixel, int) - colour).max() <= JITTER


def ink(record):
    image = np.asarray(record["image"]).astype(int)
    return np.abs(image - image[0, 0]).max(-1) > 60


def middle(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2


def test_colours_can_be_told_apart():
    for colours in (FOREGROUNDS, BACKGROUNDS):
        assert len(colours) == 11
        pairs = [(a, b) for a in colours for b in colours if a < b]
        assert min(distance(colours[a], colours[b]) for a, b in pairs) > 4 * JITTER * np.sqrt(3)
    assert all(len(backgrounds) >= 3 for backgrounds in BACKGROUNDS_FOR.values())
    for name, others in PARTNERS_FOR.items():
        assert name not in others and len(others) >= 7


@pytest.mark.parametrize("seed", range(40))
def test_a_single_icon_has_its_colours_size_and_position(seed):
    rng = np.random.default_rng(seed)
    colour = list(FOREGROUNDS)[seed % 11]
    record = compose.compose_single(block(), colour, rng)
    image, covered = np.asarray(record["image"]), ink(record)
    x, y = middle(covered)
    assert is_colour(image[int(y), int(x)], FOREGROUNDS[colour])
    assert is_colour(image[0, 0], BACKGROUNDS[record["background"]])
    side = np.sqrt(covered.sum())
    assert record["size"] == ("small" if side < 50 else "medium" if side < 90 else "large")
    words = ("top" if y < 55 else "bottom" if y > 73 else "", "left" if x < 55 else "right" if x > 73 else "")
    assert record["position"] == (" ".join(word for word in words if word) or "center")
    plain = record["captions"][0]
    assert f"{colour} block icon" in plain and f"on a {record['background']} background" in plain
    assert ("small" in plain) == (record["size"] == "small") and ("large" in plain) == (side >= 90)


@pytest.mark.parametrize("relation", list(compose.RELATIONS))
def test_a_pair_is_arranged_as_in_its_caption(relation):
    for seed in range(10):
        record = compose.compose_pair(
            block("key"), "red", relation, block("star"), "blue", np.random.default_rng(seed)
        )
        image = np.asarray(record["image"]).astype(int)
        places = {
            name: middle(np.abs(image - FOREGROUNDS[name]).max(-1) <= JITTER) for name in ("red", "blue")
        }
        dx, dy = np.subtract(places["red"], places["blue"])
        expected = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
        assert expected[relation] > 40 and expected[relation] == max(expected.values())
        assert record["captions"][0].startswith(f"a red key icon {relation} a blue star icon on a ")
        inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
        assert record["captions"][2].startswith(f"a blue star {inverse} a red key, ")


@pytest.mark.parametrize("count", compose.COUNTS)
def test_copies_do_not_touch(count):
    for seed in range(20):
        record = compose.compose_count(block(), "green", count, np.random.default_rng(seed))
        closed = ndimage.maximum_filter(ink(record), size=7)
        assert ndimage.label(closed)[1] == count == record["count"]
        number = {2: "two", 3: "three", 4: "four"}[count]
        assert record["captions"][0].startswith(f"{number} green block icons on a ")


def test_a_coloured_drawing_is_unchanged_if_plain_and_shifted_otherwise():
    art = Image.new("RGBA", (128, 128))
    art.paste((200, 30, 40, 255), (10, 30, 60, 90))
    plain = compose.compose_art(art, "red brick", "noto", (), True, np.random.default_rng(0))
    image = np.asarray(plain["image"])
    assert (image[30:90, 10:60] == (200, 30, 40)).all() and image[0, 0].tolist() == [255, 255, 255]
    assert plain["captions"][0] == "a noto emoji of a red brick"
    boxes, backgrounds = set(), set()
    for seed in range(30):
        moved = compose.compose_art(art, "red brick", "noto", (), False, np.random.default_rng(seed))
        boxes.add(middle(np.abs(np.asarray(moved["image"]).astype(int) - (200, 30, 40)).max(-1) < 9))
        backgrounds.add(moved["background"])
        said = moved["captions"][0].endswith(f"on a {moved['background']} background")
        assert said == (moved["background"] != "white")
    assert len(boxes) > 20 and len(backgrounds) > 5


def test_hands_and_flags_are_not_mirrored():
    art = Image.new("RGBA", (128, 128))
    art.paste((200, 30, 40, 255), (0, 0, 30, 128))
    art.paste((20, 30, 140, 255), (98, 0, 128, 128))

    def mirrored(concept, seed):
        record = compose.compose_art(art, concept, "noto", (), False, np.random.default_rng(seed))
        image = np.asarray(record["image"]).astype(int)
        red, blue = (middle(np.abs(image - c).max(-1) < 9)[0] for c in ((200, 30, 40), (20, 30, 140)))
        return red > blue

    assert not any(mirrored("flag of france", seed) for seed in range(20))
    assert 4 < sum(mirrored("dog", seed) for seed in range(20)) < 16


def test_captions_are_english():
    assert single_captions("key", "green", "thin", "small", "top left", "light blue")[:3] == [
        "a small thin green key icon in the top left corner, on a light blue background",
        "a small thin green key in the top left corner, light blue background",
        "light blue background with a small thin green key icon in the top left corner",
    ]
    assert (
        single_captions("anchor", "orange", "", "", "", "white")[0]
        == "an orange anchor icon on a white background"
    )
    pair = pair_captions(("scissors", "red", ""), "above", ("egg", "orange", "outline"), "white")
    assert pair[0] == "a red scissors icon above an outlined orange egg icon on a white background"
    assert pair[3] == "red scissors at the top and an orange egg at the bottom, on a white background"
    assert (
        count_captions(3, "key", "red", "bold", "black")[0]
        == "three bold red key icons on a black background"
    )
    assert art_captions("red heart", "plump flat", ["love"], "white") == [
        "a plump flat icon of a red heart",
        "a red heart, plump flat style",
        "a red heart icon in the plump flat style",
        "a red heart",
        "a plump flat icon of a red heart, love",
    ]


def test_reading_a_record_again_gives_the_same_one(built_icons):
    source, again = (load_source("icons/x3", "train", data_dir=built_icons) for _ in range(2))
    one = load_source("icons", "train", data_dir=built_icons)
    assert len(source) == 3 * len(one)
    for index in range(0, len(source), 7):
        first, second = source[index], again[index]
        np.testing.assert_array_equal(first["image"], second["image"])
        assert first["captions"] == second["captions"]
        if first["kind"] != "count":
            assert first["name"] == one[index % len(one)]["name"] or one[index % len(one)]["kind"] == "count"
        assert first["image"].shape == (128, 128, 3) and first["image"].dtype == np.uint8
    different = [
        not np.array_equal(source[i]["image"], source[i + len(one)]["image"]) for i in range(len(one))
    ]
    assert np.mean(different) > 0.9


def test_art_alone_has_a_style_in_every_record(built_icons):
    one, everything = (load_source(name, "train", data_dir=built_icons) for name in ("icons/art", "icons"))
    source = load_source("icons/art/x2", "train", data_dir=built_icons)
    records = [source[index] for index in range(len(source))]
    assert len(everything) > len(one) > 0 and len(records) == 2 * len(one)
    assert all(record["kind"] == "art" and record["style"] for record in records)
    names = {
        everything[index]["name"] for index in range(len(everything)) if everything[index]["kind"] == "art"
    }
    assert {record["name"] for record in records} == names
    assert any(
        not np.array_equal(a["image"], b["image"]) for a, b in zip(records, records[len(one) :], strict=False)
    )


def test_training_has_no_held_out_combination(built_icons):
    source = load_source("icons/x20", "train", data_dir=built_icons)
    inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    kinds = set()
    for record in map(source.__getitem__, range(len(source))):
        kinds.add(record["kind"])
        concept = record["concept"]
        if record["kind"] != "art":
            assert record["foreground"] != compose.heldout_colour(concept)
        if record["kind"] == "pair":
            assert record["second_foreground"] != compose.heldout_colour(record["second_concept"])
            assert record["relation"] != compose.heldout_relation(concept)
            assert inverse[record["relation"]] != compose.heldout_relation(record["second_concept"])
        if record["kind"] == "count":
            assert record["count"] != compose.heldout_count(concept)
    assert kinds == {"art", "single", "pair", "count"}


def test_held_out_splits_have_only_held_out_combinations(built_icons):
    def records(split):
        source = load_source("icons", split, data_dir=built_icons)
        return [source[i] for i in range(len(source))]

    for record in records("heldout_colours"):
        assert record["kind"] == "single" and record["foreground"] == compose.heldout_colour(
            record["concept"]
        )
    for record in records("heldout_relations"):
        assert record["kind"] == "pair" and record["relation"] == compose.heldout_relation(record["concept"])
    for record in records("heldout_counts"):
        assert record["kind"] == "count" and record["count"] == compose.heldout_count(record["concept"])
    trained = {record["concept"] for record in records("train")}
    assert trained.isdisjoint(record["concept"] for record in records("heldout_concepts"))
    assert all(len(record["captions"]) == 1 for split in SPLITS[1:] for record in records(split))


def test_the_loader_draws_one_of_the_captions(built_icons):
    source = load_source("icons", "train", data_dir=built_icons)
    batch = next(make_loader(source, batch_size=8, image_size=64))
    assert batch["image"].shape == (8, 64, 64, 3)
    for caption, index in zip(batch["caption"], batch["index"], strict=True):
        assert caption in source[int(index)]["captions"]
    record, rng = source[0], np.random.default_rng(0)
    assert {CaptionTemplate()(record, rng) for _ in range(60)} == set(record["captions"])


def test_errors_say_what_to_do(built_icons, tmp_path):
    with pytest.raises(ValueError, match=r"run `python -m experiments.prepare_data --data=icons"):
        load_source("icons", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"use icons, or icons/art for coloured"):
        load_source("icons/8", "train", data_dir=built_icons)
    with pytest.raises(ValueError, match=r"no split 'test': it has train, heldout_pairs"):
        load_source("icons", "test", data_dir=built_icons)
    source = load_source("icons", "train", data_dir=built_icons)
    with pytest.raises(IndexError):
        source[len(source)]
