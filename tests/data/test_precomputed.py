"""Precomputed features: round trips, and batches that can be resumed and sharded."""

import itertools
import json

import numpy as np
import pytest

from muse_jax.data import PLAIN_CAPTIONS, PrecomputedSource, load_source, make_loader, write_precomputed

N, K = 13, 3


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, 60000, (N, 4), dtype=np.uint16),
        "superres_tokens": rng.integers(0, 60000, (N, 9), dtype=np.int32),
        "text_states": rng.normal(size=(N, K, 5, 6)).astype(np.float16),
        "text_mask": rng.random((N, K, 5)) < 0.5,
    }


@pytest.fixture
def name(tmp_path, arrays):
    write_precomputed(tmp_path / "features" / "train", arrays, {"encoder": "minilm"})
    return f"precomputed:{tmp_path / 'features'}"


def take(loader, count=None):
    return list(itertools.islice(loader, count))


def test_round_trip(name, arrays):
    source = load_source(name, "train")
    assert len(source) == N and source.variants == K and source.meta["encoder"] == "minilm"
    for key, array in arrays.items():
        np.testing.assert_array_equal(source[4][key], array[4])


def test_batches_have_one_caption_per_row(name, arrays):
    used = set()
    for batch in take(make_loader(load_source(name, "train"), batch_size=5, seed=2), 30):
        assert batch["tokens"].dtype == batch["superres_tokens"].dtype == np.int32
        assert batch["text_states"].dtype == np.float16 and batch["text_mask"].dtype == bool
        assert batch["text_states"].shape == (5, 5, 6)
        np.testing.assert_array_equal(batch["tokens"], arrays["tokens"][batch["index"]])
        np.testing.assert_array_equal(batch["superres_tokens"], arrays["superres_tokens"][batch["index"]])
        for i, index in enumerate(batch["index"]):
            matches = (arrays["text_states"][index] == batch["text_states"][i]).all((1, 2))
            assert matches.sum() == 1
            np.testing.assert_array_equal(batch["text_mask"][i], arrays["text_mask"][index][matches.argmax()])
            used.add(int(matches.argmax()))
    assert used == set(range(K))


def test_epochs_shards_and_resumption(name):
    source = load_source(name, "train")
    batches = take(make_loader(source, batch_size=4, seed=5), 26)  # 8 epochs of 13
    order = np.concatenate([batch["index"] for batch in batches]).reshape(8, N)
    assert all(sorted(epoch) == list(range(N)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == 8
    for rows in ([0, 1], [3, 2]):
        part = take(make_loader(source, batch_size=4, seed=5, rows=rows), 26)
        for k, batch in enumerate(batches):
            for key in batch:
                np.testing.assert_array_equal(part[k][key], batch[key][rows])
    loader = make_loader(source, batch_size=4, seed=5)
    take(loader, 6)
    state = json.loads(json.dumps(loader.get_state()))
    restored = make_loader(source, batch_size=4, seed=5)
    restored.set_state(state)
    for batch, expected in zip(take(restored, 20), batches[6:], strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], expected[key])
    with pytest.raises(ValueError, match="seed 5, this run has 6"):
        make_loader(source, batch_size=4, seed=6).set_state(state)


@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_the_last_batch_of_a_finite_loader_is_padded_and_masked(name, rows):
    source = load_source(name, "train")
    batches = take(make_loader(source, batch_size=5, shuffle=False, num_epochs=1, rows=rows))
    places = np.arange(15).reshape(3, 5)[:, slice(None) if rows is None else rows]
    np.testing.assert_array_equal([batch["example_mask"] for batch in batches], places < N)
    index = np.array([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index[places < N], places[places < N])
    assert all(batch["tokens"].shape == (places.shape[1], 4) for batch in batches)


def test_plain_captions_are_the_first_ones(name, arrays):
    source = load_source(name, "train")
    for batch in take(make_loader(source, batch_size=5, num_epochs=1, caption=PLAIN_CAPTIONS)):
        np.testing.assert_array_equal(batch["text_states"], arrays["text_states"][batch["index"], 0])


def test_augmentation_is_refused(name):
    with pytest.raises(
        ValueError, match="augment is 'flip', but a precomputed source holds augmented images"
    ):
        make_loader(load_source(name, "train"), batch_size=5, augment="flip")


def test_writing_replaces_whole_folders(tmp_path, arrays):
    folder = tmp_path / "train"
    write_precomputed(folder, arrays, {})
    write_precomputed(folder, {"tokens": arrays["tokens"][:3]}, {})
    assert len(PrecomputedSource(folder)) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "tokens.npy"]
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_errors(tmp_path, arrays):
    with pytest.raises(ValueError, match="has no meta.json: compute the features"):
        load_source(f"precomputed:{tmp_path}", "train")
    with pytest.raises(ValueError, match="same first axis"):
        write_precomputed(tmp_path / "x", {**arrays, "tokens": arrays["tokens"][:2]}, {})
    with pytest.raises(ValueError, match="have the same captions"):
        write_precomputed(tmp_path / "x", {**arrays, "text_mask": arrays["text_mask"][:, :2]}, {})
    with pytest.raises(ValueError, match="no arrays"):
        write_precomputed(tmp_path / "x", {}, {})
    assert not (tmp_path / "x").exists()
    write_precomputed(tmp_path / "train", arrays, {})
    (tmp_path / "train" / "tokens.npy").unlink()
    with pytest.raises(ValueError, match="lacks tokens.npy"):
        load_source(f"precomputed:{tmp_path}", "train")
