"""Sources opened by name, their records, and their errors."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from muse_jax.data import CorruptRecordError, load_source
from muse_jax.data.sources import TfdsSource
from muse_jax.media.audio import encode_wav
from muse_jax.media.image import encode_png
from muse_jax.media.video import encode_gif
from tests.media.test_video import numbered


def write_folder(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return folder


def save(path, colour, size=(8, 8), mode="RGB"):
    Image.new(mode, size, colour).save(path)


def test_a_folder_has_images_captions_and_splits(tmp_path):
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
    assert (source[1]["image"] == 255).all(), "transparency becomes white"
    assert load_source(f"folder:{tmp_path}", "test")[0]["captions"] == ["held out"]
    with pytest.raises(ValueError, match=r"split 'val': it has \['test', 'train'\]"):
        load_source(f"folder:{tmp_path}", "val")


def test_missing_and_corrupt_files_of_a_folder_are_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    save(tmp_path / "cut.png", (1, 2, 3), size=(64, 64))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    names = ["bad.png", "cut.png", "gone.png"]
    source = load_source(
        f"folder:{write_folder(tmp_path, [{'file': n, 'caption': ''} for n in names])}", "train"
    )
    for i, name in enumerate(names):
        with pytest.raises(CorruptRecordError, match=name):
            source[i]


def test_errors_of_a_folder_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.jsonl is missing: write one line"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "x"}\n{"file": 3\n')
    with pytest.raises(ValueError, match="line 2"):
        load_source(f"folder:{tmp_path}", "train")


def test_a_folder_of_videos(tmp_path):
    clip = np.zeros((3, 8, 8, 3), np.uint8)
    clip[1:, :4], clip[2, :, 4:] = (250, 0, 0), (0, 0, 250)
    (tmp_path / "a.gif").write_bytes(encode_gif(clip, 10))
    (tmp_path / "b").mkdir()
    for number, frame in enumerate(clip):
        (tmp_path / "b" / f"{number:04d}.png").write_bytes(encode_png(frame))
    lines = [{"file": "a.gif", "caption": "a"}, {"file": "b", "caption": "b", "fps": 25}]
    source = load_source(f"folder:{write_folder(tmp_path, lines)}", "train")
    assert source.fields == ("video",)
    assert [source[index]["fps"] for index in range(2)] == [10, 25]
    for index in range(2):
        np.testing.assert_array_equal(source[index]["video"], clip)
    assert source[1]["captions"] == ["b"]


def test_a_folder_of_audio(tmp_path):
    samples = np.linspace(-0.9, 0.9, 50)
    (tmp_path / "a.WAV").write_bytes(encode_wav(samples, 8000))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    lines = [{"file": name, "caption": ""} for name in ("a.WAV", "bad.wav")]
    source = load_source(f"folder:{write_folder(tmp_path, lines)}", "train")
    assert source.fields == ("audio",) and source[0]["sample_rate"] == 8000
    np.testing.assert_allclose(source[0]["audio"], samples, atol=1e-4)
    with pytest.raises(CorruptRecordError, match="bad.wav is not a readable audio"):
        source[1]


def test_a_folder_of_two_media_is_refused(tmp_path):
    lines = [{"file": name, "caption": ""} for name in ("a.png", "a.wav")]
    with pytest.raises(ValueError, match="mixes audio and image: list files of one medium"):
        load_source(f"folder:{write_folder(tmp_path, lines)}", "train")


@pytest.mark.parametrize("name", ["emojis", "", "folder:", "emoji:x", "imagenet"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"unknown data source .* use one of emoji"):
        load_source(name, "train")


def test_missing_emoji_data_says_to_run_prepare_data(tmp_path):
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


def built_source(folder, name, features, example):
    """A TFDS data set of one example, built in `folder`."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "__module__": __name__,
        "_info": info,
        "_split_generators": lambda self, _: {"train": iter([("a", example)])},
        "_generate_examples": lambda self: (),
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), members)
    builder = builder(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return TfdsSource(builder, "train")


def png(array):
    return io.BytesIO(encode_png(array))


def test_a_tfds_data_set_of_strips_and_wav_files(tmp_path):
    from tensorflow_datasets import features

    image = features.Image(shape=(None, None, 3), encoding_format="png")
    frames, samples = numbered(3)["video"], np.linspace(-0.5, 0.5, 9)
    example = {"video": png(frames.reshape(12, 4, 3)), "audio": encode_wav(samples, 4000), "text": "a clip"}
    kinds = {"video": image, "audio": features.Text(), "text": features.Text()}
    source = built_source(tmp_path, "Strips", kinds, example)
    record = source[0]
    assert source.fields == ("video", "audio") and record["caption"] == "a clip"
    np.testing.assert_array_equal(record["video"], frames)
    np.testing.assert_allclose(record["audio"], samples, atol=1e-4)
    assert (record["fps"], record["sample_rate"]) == (8, 4000)


def test_a_tfds_data_set_of_frames_and_samples(tmp_path):
    from tensorflow_datasets import features

    image = features.Image(shape=(None, None, 3), encoding_format="png")
    frames, samples = numbered(3)["video"], np.array([0, 1 << 14, -(1 << 15)], np.int16)
    example = {"video": list(map(png, frames)), "fps": 5.0, "audio": samples, "sample_rate": 8000}
    kinds = {
        "video": features.Sequence(image),
        "fps": np.float32,
        "audio": features.Tensor(shape=(None,), dtype=np.int16),
        "sample_rate": np.int64,
    }
    record = built_source(tmp_path, "Frames", kinds, example)[0]
    np.testing.assert_array_equal(record["video"], frames)
    assert record["audio"].tolist() == [0, 0.5, -1] and record["audio"].dtype == np.float32
    assert (record["fps"], record["sample_rate"]) == (5, 8000)


def test_the_images_of_an_npz_as_adm_writes_them(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    file, other = tmp_path / "batch.npz", tmp_path / "other.npz"
    np.savez(file, images, np.array([7, 0, 999]))
    np.savez(other, mu=np.zeros(3))
    source = load_source(f"npz:{file}", "train")
    assert len(source) == 3 and source[2]["captions"] == ["999"]
    np.testing.assert_array_equal(source[2]["image"], images[2])
    with pytest.raises(ValueError, match="no split 'val': it has only 'train'"):
        load_source(f"npz:{file}", "val")
    with pytest.raises(ValueError, match="other.npz has no images"):
        load_source(f"npz:{other}", "train")
    with pytest.raises(ValueError, match="nothing.npz cannot be read"):
        load_source(f"npz:{tmp_path / 'nothing.npz'}", "train")
