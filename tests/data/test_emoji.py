"""The emoji data set: names, drawings, splits, and the built records."""

import collections
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muse_jax.data import load_source
from muse_jax.data.emoji import SPLITS, STYLES, assign_splits, load_artworks, render_png
from muse_jax.data.emoji.artwork import concept_name, tarball_name


def pixels(artwork, size=32):
    return np.asarray(Image.open(io.BytesIO(render_png(artwork.svg, size))))


def is_red(image):
    image = image.astype(int)
    return (image[..., 0] > 150) & (image[..., 1] < 100) & (image[..., 2] < 130)


@pytest.fixture(scope="module")
def artworks(downloads):
    return {(a.concept, a.style): a for a in load_artworks(downloads)}


def test_a_red_heart_is_red_on_white_in_every_style(artworks):
    for style in STYLES:
        image = pixels(artworks["red heart", style])
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        assert is_red(image).mean() > 0.2
        assert (image[0, 0] == 255).all() and (image[-1, -1] == 255).all()


def test_concepts_have_one_name_across_styles(artworks):
    styles = collections.defaultdict(set)
    for concept, style in artworks:
        styles[concept].add(style)
    assert styles["flag of france"] == set(STYLES)
    assert styles["man with red hair"] == set(STYLES)
    assert artworks["red heart", "noto"].tags == ("love", "valentine")
    assert artworks["red heart", "noto"].group == "symbols"


def test_skin_tones_components_and_repeated_drawings_are_left_out(artworks):
    concepts = {concept for concept, _ in artworks}
    assert "red hair" not in concepts and not any("waving" in concept for concept in concepts)
    assert ("shape number 1", "twemoji") in artworks and ("shape number 10", "twemoji") not in artworks
    assert ("shape number 10", "noto") in artworks


def test_a_mirrored_alias_is_the_mirror_image(artworks):
    left, right = (pixels(artworks[f"pointing {side}", "noto"]) for side in ("left", "right"))
    np.testing.assert_array_equal(left[:, ::-1], right)
    assert left[:, :8].max() == 0 and left[:, 16:].min() == 255


def test_a_drawing_that_is_not_square_is_centred():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="20" height="10"/></svg>'
    image = np.asarray(Image.open(io.BytesIO(render_png(svg, 40))))
    assert image[:10].min() == 255 and image[30:].min() == 255 and image[11:29].max() == 0


@pytest.mark.parametrize(
    "label, name",
    [
        ("red heart", "red heart"),
        ("flag: Côte d’Ivoire", "flag of cote d'ivoire"),
        ("woman: curly hair", "woman with curly hair"),
        ("keycap: #", "keycap hash"),
        ("Japanese “bargain” button", "japanese bargain button"),
        ("family: man, woman, boy", "family man, woman, boy"),
    ],
)
def test_concept_name(label, name):
    assert concept_name(label) == name


def check_splits(splits):
    """Checks the properties of splits, given as (concept, style) -> split."""
    members = {split: {pair for pair, s in splits.items() if s == split} for split in SPLITS}
    trained = collections.defaultdict(set)
    for concept, style in members["train"]:
        trained[concept].add(style)
    for concept, style in members["heldout_pairs"]:
        assert trained[concept] and style not in trained[concept]
    whole = {concept for concept, _ in members["heldout_concepts"]}
    assert whole.isdisjoint({concept for concept, _ in members["train"] | members["heldout_pairs"]})
    return members


def test_splits_have_their_properties_and_sizes():
    rng = np.random.default_rng(0)
    pairs = [
        (f"concept {i}", style)
        for i in range(1000)
        for style in rng.choice(
            list(STYLES), size=rng.choice([1, 2, 3, 4], p=[0.02, 0.15, 0.28, 0.55]), replace=False
        )
    ]
    splits = assign_splits(pairs)
    assert set(splits) == set(pairs)
    members = check_splits(splits)
    assert 0.08 < len(members["heldout_pairs"]) / len(pairs) < 0.12
    assert 0.03 < len({concept for concept, _ in members["heldout_concepts"]}) / 1000 < 0.05


def test_splits_do_not_depend_on_order_or_on_other_concepts():
    pairs = [(f"concept {i}", style) for i in range(50) for style in STYLES]
    splits = assign_splits(pairs)
    assert assign_splits(pairs[::-1]) == splits
    assert assign_splits(pairs[:40]) == {pair: splits[pair] for pair in pairs[:40]}


def test_a_missing_tarball_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"iconify-json-noto-1\.2\.9\.tgz.*prepare_data"):
        load_artworks(tmp_path)
    assert tarball_name("@scope/name@1.0") == "scope-name-1.0.tgz"


def test_built_records_are_the_artworks(built, artworks):
    splits, seen = {}, {}
    for split in SPLITS:
        source = load_source("emoji", split, data_dir=built)
        for i in range(len(source)):
            record = source[i]
            assert record["image"].shape == (128, 128, 3) and record["image"].dtype == np.uint8
            splits[record["concept"], record["style"]] = split
            seen[record["concept"], record["style"]] = record
    assert set(seen) == set(artworks)
    assert splits == assign_splits(artworks)
    check_splits(splits)
    record = seen["red heart", "noto"]
    np.testing.assert_array_equal(record["image"], pixels(artworks["red heart", "noto"], 128))
    assert record["tags"] == ["love", "valentine"] and record["name"] == "noto/red-heart"
    assert "tensorflow" not in sys.modules


def test_real_data_has_its_size_and_splits():
    if not Path("data/emoji/px128").is_dir():
        pytest.skip("the emoji data is not built: run `python -m experiments.prepare_data`")
    splits = {}
    for split in SPLITS:
        source = load_source("emoji", split)
        for i in range(len(source)):
            record = source._records[i]  # without decoding the image
            splits[record["concept"].decode(), record["style"].decode()] = split
    members = check_splits(splits)
    assert len(splits) > 6000
    assert 0.09 < len(members["heldout_pairs"]) / len(splits) < 0.11
    source = load_source("emoji", "train")
    hearts = [i for i in range(len(source)) if source._records[i]["concept"] == b"red heart"]
    assert hearts and all(is_red(source[i]["image"]).mean() > 0.1 for i in hearts)
