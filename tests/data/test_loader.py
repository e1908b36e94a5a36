"""Batches: order, shards, captions, exact resumption, and corrupt records."""

import itertools
import json
import logging
import weakref

import numpy as np
import pytest
from PIL import Image

from muse_jax.data import PLAIN_CAPTIONS, CaptionTemplate, emoji_prompt, load_source, make_loader
from muse_jax.data.sources import CorruptRecordError
from muse_jax.media import AudioModality, ImageModality, VideoModality


class ShadeSource:
    """Image i has the shade i everywhere; the records in `corrupt` cannot be read."""

    def __init__(self, length, corrupt=(), size=16):
        self.length, self.corrupt, self.size = length, set(corrupt), size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.corrupt:
            raise CorruptRecordError(f"shade-{index} is not a readable image (test)")
        image = np.full((self.size, self.size, 3), index, np.uint8)
        return {"image": image, "concept": f"shade {index}", "style": "noto", "tags": ["love", "light"]}


def take(loader, count=None):
    return list(itertools.islice(loader, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def indices(batches):
    return np.concatenate([batch["index"] for batch in batches])


def test_batches_hold_the_records_they_name():
    batch = next(make_loader(ShadeSource(50), batch_size=8, image_size=8))
    assert batch["image"].shape == (8, 8, 8, 3) and batch["image"].dtype == np.uint8
    assert batch["index"].dtype == np.int64
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    for caption, index in zip(batch["caption"], batch["index"], strict=True):
        assert f"shade {index}" in caption


def test_batches_depend_on_the_seed_and_not_on_threads():
    def loader(seed, workers):
        return make_loader(
            ShadeSource(20), batch_size=4, image_size=8, augment="crop+flip", seed=seed, workers=workers
        )

    first = take(loader(3, 0), 12)
    assert_same(first, take(loader(3, 4), 12))
    assert not np.array_equal(indices(first), indices(take(loader(4, 0), 12)))


def test_every_epoch_has_each_record_once_in_a_new_order():
    batches = take(make_loader(ShadeSource(20), batch_size=4, image_size=8), 10)
    first, second = indices(batches[:5]), indices(batches[5:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second) and list(first) != list(range(20))
    plain = take(make_loader(ShadeSource(20), batch_size=4, image_size=8, shuffle=False), 5)
    assert list(indices(plain)) == list(range(20))


@pytest.mark.parametrize("rows", [None, [0, 1], [2, 3]])
def test_the_last_batch_of_a_finite_loader_is_padded_and_masked(rows):
    batches = take(
        make_loader(ShadeSource(10), batch_size=4, image_size=8, num_epochs=1, shuffle=False, rows=rows)
    )
    rows = [0, 1, 2, 3] if rows is None else rows
    assert [len(batch["image"]) for batch in batches] == [len(rows)] * 3
    real = np.arange(12).reshape(3, 4)[:, rows] < 10
    np.testing.assert_array_equal([batch["example_mask"] for batch in batches], real)
    np.testing.assert_array_equal(
        indices(batches).reshape(3, -1)[real], np.arange(12).reshape(3, 4)[:, rows][real]
    )
    assert "example_mask" not in next(make_loader(ShadeSource(10), batch_size=4, image_size=8))


@pytest.mark.parametrize("epochs, kept", [(1, 0), (2, 20)])
def test_decoded_records_are_kept_if_they_are_read_again(epochs, kept):
    decoded = []

    class Watched(ImageModality):
        def fit(self, record):
            image = super().fit(record).copy()
            decoded.append(weakref.ref(image))
            return image

    modalities = {"image": Watched(8, "none")}
    loader = make_loader(ShadeSource(20), batch_size=5, modalities=modalities, num_epochs=epochs, workers=0)
    assert len(take(loader)) == 4 * epochs
    assert len(decoded) == 20 and sum(image() is not None for image in decoded) == kept


@pytest.mark.parametrize("workers", [0, 3])
def test_restored_state_continues_exactly(workers):
    def loader():
        return make_loader(
            ShadeSource(21), batch_size=4, image_size=8, augment="zoom+flip", seed=1, workers=workers
        )

    original = loader()
    take(original, 7)
    state = json.loads(json.dumps(original.get_state()))
    expected = take(original, 9)  # beyond the second epoch
    restored = loader()
    restored.set_state(state)
    assert_same(take(restored, 9), expected)
    original.set_state(state)
    assert_same(take(original, 9), expected)


def test_the_state_of_other_data_is_refused():
    state = make_loader(ShadeSource(20), batch_size=4, image_size=8).get_state()
    with pytest.raises(ValueError, match="has batch_size 4, this run has 5"):
        make_loader(ShadeSource(20), batch_size=5, image_size=8).set_state(state)
    with pytest.raises(ValueError, match="has records 20, this run has 21"):
        make_loader(ShadeSource(21), batch_size=4, image_size=8).set_state(state)


@pytest.mark.parametrize("parts", [[range(4), range(4, 8)], [[0, 1, 6, 7], [2, 3], [5, 4], [2, 3]]])
def test_processes_read_their_rows_of_the_same_batches(parts):
    def shard(rows):
        return take(
            make_loader(
                ShadeSource(24),
                batch_size=8,
                image_size=8,
                augment="flip",
                rows=rows,
            ),
            6,
        )

    whole = shard(None)
    for rows in parts:
        for part, batch in zip(shard(rows), whole, strict=True):
            np.testing.assert_array_equal(part["index"], batch["index"][list(rows)])
            np.testing.assert_array_equal(part["image"], batch["image"][list(rows)])
            assert part["caption"] == [batch["caption"][row] for row in rows]


def test_corrupt_records_are_skipped_counted_and_named(caplog):
    loader = make_loader(ShadeSource(12, corrupt=[3, 4]), batch_size=4, image_size=8, num_epochs=2, workers=0)
    with caplog.at_level(logging.WARNING):
        batches = take(loader)
    assert [batch["image"].shape for batch in batches] == [(4, 8, 8, 3)] * 6
    assert sorted(indices(batches)) == sorted(2 * [i for i in range(12) if i not in (3, 4)] + 4 * [5])
    real = np.concatenate([batch["example_mask"] for batch in batches])
    assert sorted(indices(batches)[real]) == sorted(2 * [i for i in range(12) if i not in (3, 4)])
    assert loader.skipped == 2 and set(loader.corrupt) == {3, 4}
    assert "shade-3" in loader.corrupt[3]
    assert caplog.text.count("shade-3") == 1 and caplog.text.count("Skipped record 4") == 1


def test_a_corrupt_file_of_a_folder_is_skipped(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:30])
    lines = [json.dumps({"file": f"{i}.png", "caption": [f"shade {i}", f"grey {i}"]}) for i in range(6)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    loader = make_loader(load_source(f"folder:{tmp_path}", "train"), batch_size=3, image_size=8, num_epochs=8)
    batches = take(loader)
    assert set(indices(batches)) == {0, 1, 3, 4, 5} and "2.png" in loader.corrupt[2]
    captions = {caption for batch in batches for caption in batch["caption"]}
    assert {"shade 0", "grey 0"} <= captions and "shade 2" not in captions


def test_a_source_of_corrupt_records_only_is_an_error():
    loader = make_loader(ShadeSource(3, corrupt=range(3)), batch_size=1, image_size=8, workers=0)
    with pytest.raises(ValueError, match="all 3 records of the data source are corrupt"):
        next(loader)


class ClipSource:
    """Videos, audio and an array of another kind, all of value or length `index`."""

    fields = ("video", "audio", "direction")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {
            "video": np.full((index + 1, 8, 8, 3), index, np.uint8),
            "fps": 8.0,
            "audio": np.full(10 * (index + 1), index, np.float32),
            "sample_rate": 100,
            "direction": np.array([index, -index], np.float32),
            "caption": str(index),
            "length": index,  # not an array of batches
        }


MODALITIES = {"video": VideoModality(size=4, length=3), "audio": AudioModality(100, 20)}


def test_batches_have_every_array_field_of_the_source():
    batches = take(make_loader(ClipSource(), batch_size=2, modalities=MODALITIES, num_epochs=1))
    for batch in batches:
        assert set(batch) == {"video", "audio", "direction", "caption", "index", "example_mask"}
        assert batch["video"].shape == (2, 3, 4, 4, 3) and batch["video"].dtype == np.uint8
        assert batch["audio"].shape == (2, 20) and batch["audio"].dtype == np.float32
        np.testing.assert_array_equal(batch["video"][:, 0, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["audio"][:, 0], batch["index"])
        np.testing.assert_array_equal(batch["direction"], np.stack([batch["index"], -batch["index"]], 1))
        assert batch["caption"] == [str(index) for index in batch["index"]]


def test_a_video_or_audio_field_needs_a_modality():
    with pytest.raises(ValueError, match="the field 'audio', whose length and rate are not given"):
        make_loader(ClipSource(), batch_size=2, modalities={"video": MODALITIES["video"]})


def test_captions_are_tokenized():
    def tokenize(captions):
        ids = np.array([[len(caption), 7] for caption in captions])
        return ids, ids > 0

    def loader(**kwargs):
        return make_loader(ShadeSource(20), batch_size=4, image_size=8, **kwargs)

    batch, plain = next(loader(encoder_tokenize=tokenize)), next(loader())
    assert set(batch) == {"image", "index", "caption_ids", "caption_mask"}
    assert batch["caption_ids"].dtype == np.int32 and batch["caption_mask"].dtype == bool
    assert list(batch["caption_ids"][:, 0]) == [len(caption) for caption in plain["caption"]]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rows": [2, 4]}, r"rows is \[2, 4\]: give distinct rows of a batch, from 0 to 3"),
        ({"rows": [1, 1]}, r"rows is \[1, 1\]"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"augment": "blur"}, "unknown step 'blur'"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_loader(ShadeSource(20), **{"batch_size": 4, "image_size": 8, **kwargs})


def test_prompts():
    assert emoji_prompt("red heart", "noto") == "a noto emoji of a red heart"
    assert emoji_prompt("alien", "emojione") == "an emojione emoji of an alien"
    assert emoji_prompt("unicorn") == "a unicorn" and emoji_prompt("scissors") == "scissors"
    assert emoji_prompt("hibiscus") == "a hibiscus" and emoji_prompt("men wrestling") == "men wrestling"
    assert emoji_prompt("flag of france", "twemoji") == "a twemoji emoji of the flag of france"


def test_caption_forms_have_their_probabilities():
    template = CaptionTemplate(style_free=0.2, reordered=0.1, tags=0.3, max_tags=2)
    record = {"concept": "red heart", "style": "noto", "tags": ["love", "red", "valentine", "emotion"]}
    rng = np.random.default_rng(0)
    captions = [template(record, rng) for _ in range(4000)]
    plain = "a noto emoji of a red heart"
    tagged = [caption for caption in captions if caption.startswith(plain + ", ")]
    shares = [captions.count(c) / 4000 for c in ("a red heart", "a red heart, noto style", plain)]
    np.testing.assert_allclose([*shares, len(tagged) / 4000], [0.2, 0.1, 0.4, 0.3], atol=0.03)
    assert sum(shares) + len(tagged) / 4000 == pytest.approx(1), "these are all forms"
    used = {tag for caption in tagged for tag in caption[len(plain) + 2 :].split(", ")}
    assert used == {"love", "valentine", "emotion"}, "tags contained in the concept are left out"
    assert {caption.count(",") for caption in tagged} == {1, 2}
    assert PLAIN_CAPTIONS(record, rng) == plain
    with pytest.raises(ValueError, match="at most 1"):
        CaptionTemplate(style_free=0.9, tags=0.3)
