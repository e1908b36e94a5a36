"""Sources by name, and what they say when something is not there."""

import json

import numpy as np
import pytest
from PIL import Image

from muse_jax.data import CorruptImageError, load_source
from muse_jax.media.image import augment_image, decode_image, parse_augment, resize


def write_folder(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return folder


def save(path, colour, size=(8, 8), mode="RGB"):
    Image.new(mode, size, colour).save(path)


def test_folder_reads_pictures_captions_and_splits(tmp_path):
    save(tmp_path / "a.png", (255, 0, 0), size=(10, 6))
    save(tmp_path / "b.png", (0, 0, 0, 0), mode="RGBA")
    write_folder(
        tmp_path,
        [
            {"file": "a.png", "caption": "red"},
            {"file": "b.png", "caption": ["clear", "nothing"]},
            {"file": "a.png", "caption": "held out", "split": "test"},
        ],
    )
    source = load_source(f"folder:{tmp_path}", "train")
    assert len(source) == 2
    assert source[0]["image"].shape == (6, 10, 3) and (source[0]["image"] == [255, 0, 0]).all()
    assert source[0]["captions"] == ["red"] and source[1]["captions"] == ["clear", "nothing"]
    assert (source[1]["image"] == 255).all(), "transparency is laid on white"
    assert load_source(f"folder:{tmp_path}", "test")[0]["captions"] == ["held out"]
    with pytest.raises(ValueError, match=r"split 'val': it has \['test', 'train'\]"):
        load_source(f"folder:{tmp_path}", "val")


def test_folder_names_missing_and_corrupt_files(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    save(tmp_path / "cut.png", (1, 2, 3), size=(64, 64))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    names = ["bad.png", "cut.png", "gone.png"]
    source = load_source(
        f"folder:{write_folder(tmp_path, [{'file': n, 'caption': ''} for n in names])}", "train"
    )
    for i, name in enumerate(names):
        with pytest.raises(CorruptImageError, match=name):
            source[i]


def test_folder_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.jsonl is missing: write one line"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "x"}\n{"file": 3\n')
    with pytest.raises(ValueError, match="line 2"):
        load_source(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize("name", ["emojis", "", "folder:", "emoji:x", "imagenet"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"unknown data source .* use one of emoji"):
        load_source(name, "train")


def test_emoji_not_built_says_to_run_prepare_data(tmp_path):
    for name in ("emoji", "tfds:emoji"):
        with pytest.raises(ValueError, match=r"not built .* run `python -m experiments.prepare_data"):
            load_source(name, "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="emoji/px256"):
        load_source("emoji/px64", "train", data_dir=tmp_path)


def test_tfds_by_name(built):
    source = load_source("tfds:emoji/px128", "train", data_dir=built)
    same = load_source("emoji", "train", data_dir=built)
    assert len(source) == len(same)
    np.testing.assert_array_equal(source[3]["image"], same[3]["image"])
    with pytest.raises(ValueError, match="no split 'test': it has heldout_concepts"):
        load_source("tfds:emoji/px128", "test", data_dir=built)


def test_tfds_errors(tmp_path):
    with pytest.raises(ValueError, match="no data set 'no_such_data'"):
        load_source("tfds:no_such_data", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="mnist is not built"):
        load_source("tfds:mnist", "train", data_dir=tmp_path)


def test_resize_is_the_mean_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mean = image.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(resize(image, 8) - mean).max() <= 1, "rounded once for each axis"
    assert resize(image, 12).shape == (12, 12, 3)
    wide = np.concatenate([np.zeros_like(image), image, np.zeros_like(image)], 1)
    np.testing.assert_array_equal(resize(wide, 32), image)


def test_crop_is_a_window_of_the_stored_picture():
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    image = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    corners = set()
    for seed in range(40):
        crop = augment_image(image, 8, ("crop",), np.random.default_rng(seed))
        top, left = crop[0, 0, :2]
        corners.add((top, left))
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
    assert len(corners) > 20
    flipped = [
        augment_image(image, 16, ("flip",), np.random.default_rng(seed))[0, 0, 1] for seed in range(40)
    ]
    assert set(flipped) == {0, 15}
    assert augment_image(image, 32, ("crop",), np.random.default_rng(0)).shape == (32, 32, 3)
    assert augment_image(image, 8, ("zoom",), np.random.default_rng(0)).shape == (8, 8, 3)


def test_unknown_augmentation():
    assert parse_augment("crop+flip") == ("crop", "flip")
    with pytest.raises(ValueError, match="unknown step 'cutout'"):
        parse_augment("flip+cutout")
    with pytest.raises(ValueError, match="either crop or zoom"):
        parse_augment("crop+zoom")


def test_decode_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9] * 256)
    image.save(tmp_path / "p.png", transparency=0)
    assert (decode_image((tmp_path / "p.png").read_bytes()) == 255).all()
