"""Random-access sources of captioned images, videos, audio or other arrays, opened by `load_source`."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from muse_jax.media import audio, video
from muse_jax.media.audio import Audio, as_audio, decode_audio
from muse_jax.media.image import decode_image
from muse_jax.media.video import Video, decode_video, split_strip

MEDIA = ("image", "video", "audio")
DEFAULT_DATA_DIR = "data"
NAMES = (
    "emoji, emoji/px192, emoji/px256, icons, icons/xN, icons/art, icons/art/xN, motion, motion/xN, "
    "motion/images, motion/images/xN, motion/sketches, motion/sketches/xN, the same with motion/common or "
    "motion/weather, tfds:NAME, tfds:NAME/CONFIG, folder:PATH, npz:FILE, precomputed:PATH"
)


class CorruptRecordError(ValueError):
    """A record cannot be read; the message names it and the reason."""


@runtime_checkable
class Source(Protocol):
    """Random access to records, which are dicts of named fields.

    The array fields that go into batches are named by the source's attribute `fields`, ("image",) if it has
    none. The fields of the known media are:
      "image": uint8 (height, width, 3).
      "video": uint8 (frames, height, width, 3), with "fps", frames per second.
      "audio": float32 (samples,) in [-1, 1], with "sample_rate" in Hz.
    Any other array has the same shape in every record. Captions come from "captions", "caption" or "concept".
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`.

        Raises:
          CorruptRecordError: it cannot be read.
        """
        ...


def array_fields(source: Source) -> tuple[str, ...]:
    """The names of the array fields of a source's records that go into batches."""
    return tuple(getattr(source, "fields", ("image",)))


@contextlib.contextmanager
def _decoding(name: str, field: str) -> Iterator[None]:
    """Turns any error of a decoder into one that names the record."""
    try:
        yield
    except Exception as error:  # decoders raise errors of many types, struct.error among them
        raise CorruptRecordError(f"{name} is not a readable {field} ({error})") from error


def _video_fields(movie: Video) -> dict[str, Any]:
    return {"video": movie.frames, "fps": movie.fps}


def _audio_fields(clip: Audio) -> dict[str, Any]:
    return {"audio": clip.samples, "sample_rate": clip.sample_rate}


def _text(value: Any) -> Any:
    """Decodes the bytes that TFDS returns for text, also in lists."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_text(item) for item in value]
    return value


class FolderSource:
    """Images, videos or audio files of a folder, listed in its `captions.jsonl`.

    Each line is {"file": "a.png", "caption": "a cat"}; the caption may be a list. An optional "split" is
    "train" by default. The files are all of one medium: audio if they end in .wav, videos if they end in .gif
    or .apng or are folders of frames (read in the order of their names, at "fps" of the line, 8 by default),
    and images otherwise.
    """

    def __init__(self, folder: str | Path, split: str = "train"):
        self.folder = Path(folder)
        listing = self.folder / "captions.jsonl"
        if not listing.is_file():
            raise ValueError(
                f"{listing} is missing: write one line for each file, such as "
                '{"file": "a.png", "caption": "a cat"}.'
            )
        self._records: list[dict] = []
        splits = set()
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            if line.strip():
                record = _parse_line(listing, number, line)
                splits.add(record["split"])
                if record["split"] == split:
                    self._records.append(record)
        if not self._records:
            raise ValueError(f"{listing} has no file in the split {split!r}: it has {sorted(splits)}.")
        found = sorted({self._field(record["file"]) for record in self._records})
        if len(found) > 1:
            raise ValueError(f"{listing} mixes {' and '.join(found)}: list files of one medium.")
        self.fields = tuple(found)

    def _field(self, file: str) -> str:
        suffix = Path(file).suffix.lower()
        if suffix in audio.SUFFIXES:
            return "audio"
        if suffix in video.SUFFIXES or (not suffix and (self.folder / file).is_dir()):
            return "video"
        return "image"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self._records[index]
        path = self.folder / entry["file"]
        try:
            paths = sorted(path.iterdir()) if path.is_dir() else [path]
            files = [each.read_bytes() for each in paths]
        except OSError as error:
            raise CorruptRecordError(f"{entry['file']} cannot be read ({error.strerror})") from error
        captions = entry["caption"]
        captions = [captions] if isinstance(captions, str) else list(captions)
        with _decoding(entry["file"], self.fields[0]):
            decoded = self._decode(files, entry["fps"])
        return {**decoded, "captions": captions, "name": entry["file"]}

    def _decode(self, files: list[bytes], fps: float) -> dict[str, Any]:
        """The fields of an image, an audio file, or a video in one file or in a file for each frame."""
        if self.fields == ("image",):
            return {"image": decode_image(files[0])}
        if self.fields == ("audio",):
            return _audio_fields(decode_audio(files[0]))
        if len(files) == 1:
            return _video_fields(decode_video(files[0]))
        return _video_fields(Video(np.stack([decode_image(file) for file in files]), fps))


def _parse_line(listing: Path, number: int, line: str) -> dict:
    try:
        record = json.loads(line)
        record = {
            "file": record["file"],
            "caption": record["caption"],
            "split": record.get("split", "train"),
            "fps": record.get("fps", video.DEFAULT_FPS),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{listing} line {number} is {line[:80]!r}: it must be JSON such as "
            '{"file": "a.png", "caption": "a cat"}.'
        ) from None
    return record


def _decode_feature(field: str, stored: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record whose feature `field` is `stored`: encoded bytes, or an array."""
    encoded = isinstance(stored, bytes)
    if field == "image":
        return {"image": decode_image(stored)}
    if field == "audio":
        return _audio_fields(decode_audio(stored) if encoded else as_audio(stored, record["sample_rate"]))
    frames = split_strip(decode_image(stored)) if encoded else stored
    return _video_fields(Video(frames, float(record.get("fps", video.DEFAULT_FPS))))


class TfdsSource:
    """TFDS data set of images, videos or audio stored as array_record, read without TensorFlow.

    Records keep the features of the data set, and these are decoded:
      "image": an `Image`.
      "video": a `Sequence` of `Image`, or an `Image` that is a strip of square frames, one below the other;
        at "fps" of the record, 8 by default.
      "audio": a `Text` that holds a WAV file, or a `Tensor` of samples at "sample_rate" of the record.
    Captions come from `captions`, `caption` or `text`, or else from the class name of `label`.
    """

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds

        splits = sorted(builder.info.splits)
        if split.split("[")[0] not in splits:
            raise ValueError(f"{builder.info.full_name} has no split {split!r}: it has {', '.join(splits)}.")
        features = builder.info.features
        self.fields = tuple(field for field in MEDIA if field in features)
        if not self.fields:
            raise ValueError(
                f"{builder.info.full_name} has no feature `image`, `video` or `audio`: "
                f"it has {', '.join(sorted(features))}."
            )
        self.name = builder.info.full_name
        self._label = (
            features["label"]
            if "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
            else None
        )
        images = [field for field in self.fields if isinstance(features[field], tfds.features.Image)]
        try:
            decoders = {field: tfds.decode.SkipDecoding() for field in images}
            self._records = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise ValueError(
                f'{self.name} is not stored as array_record: build it again with file_format="array_record".'
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = f"{self.name} record {index}"
        with _decoding(name, "record"):
            stored = dict(self._records[index])
        media = {field: stored.pop(field) for field in self.fields}
        record = {"name": name, **{key: _text(value) for key, value in stored.items()}}
        for field, value in media.items():
            with _decoding(record["name"], field):
                record |= _decode_feature(field, value, record)
        if isinstance(record.get("captions"), dict):  # COCO: a sequence of {"id", "text"}
            record["captions"] = _text(record["captions"].get("text", []))
        if "concept" not in record and "captions" not in record and "caption" not in record:
            if "text" in record:
                record["caption"] = record["text"]
            elif self._label is not None:
                record["caption"] = self._label.int2str(int(record["label"])).replace("_", " ")
        return record


def _emoji_builder(name: str, data_dir: str | Path) -> Any:
    from muse_jax.data.emoji.emoji_dataset_builder import Builder

    config = name.partition("/")[2] or "px128"
    if config not in Builder.builder_configs:
        raise ValueError(
            f"{name!r} is not a size of the emoji data: use emoji/px128, emoji/px192 or emoji/px256."
        )
    builder = Builder(config=config, data_dir=str(data_dir), file_format="array_record")
    if not Path(builder.data_dir).is_dir():
        size = config.removeprefix("px")
        raise ValueError(
            f"the emoji data is not built at {builder.data_dir}: run "
            f"`python -m experiments.prepare_data --size={size} --data_dir={data_dir}`."
        )
    return builder


def _icons_source(name: str, split: str, data_dir: str | Path) -> Any:
    from muse_jax.data.icons.icons_dataset_builder import Builder
    from muse_jax.data.icons.source import IconsSource

    form = re.fullmatch(r"icons(?:/(art))?(?:/x([1-9]\d*))?", name)
    if form is None:
        raise ValueError(
            f"{name!r} is not a form of the icons data: use icons, or icons/art for coloured drawings alone, "
            "with /x8 for 8 images per drawing."
        )
    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    if not Path(builder.data_dir).is_dir():
        raise ValueError(
            f"the icons data is not built at {builder.data_dir}: run "
            f"`python -m experiments.prepare_data --data=icons --data_dir={data_dir}`."
        )
    return IconsSource(builder, split, int(form[2] or 1), form[1] or "all")


def _motion_source(name: str, split: str, data_dir: str | Path) -> Any:
    from muse_jax.data.motion.motion_dataset_builder import Builder
    from muse_jax.data.motion.source import MotionSource

    form = re.fullmatch(r"motion(?:/(common|weather))?(?:/(images|sketches))?(?:/x([1-9]\d*))?", name)
    if form is None:
        raise ValueError(
            f"{name!r} is not a form of the motion data: use motion, motion/images or motion/sketches, with "
            "/common after motion for few emoji, /weather for none, and /x8 at the end for 8 clips or images "
            "per drawing."
        )
    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    if not Path(builder.data_dir).is_dir():
        raise ValueError(
            f"the motion data is not built at {builder.data_dir}: run "
            f"`python -m experiments.prepare_data --data=motion --data_dir={data_dir}`."
        )
    return MotionSource(builder, split, int(form[3] or 1), form[2] or "clips", form[1] or "all")


def _tfds_builder(name: str, data_dir: str | Path | None) -> Any:
    import tensorflow_datasets as tfds

    if name.split("/")[0] == "emoji":  # registers the builder, so that its config is found by name
        return _emoji_builder(name, DEFAULT_DATA_DIR if data_dir is None else data_dir)
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else str(data_dir))
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"TFDS has no data set {name!r}: see `tfds.list_builders()` for the names."
        ) from None
    if not Path(builder.data_dir).is_dir():
        raise ValueError(
            f"{name} is not built at {builder.data_dir}: run `tfds build {name} --file_format=array_record` "
            "or give its folder as data_dir."
        )
    return builder


def load_source(name: str, split: str, data_dir: str | Path | None = None) -> Any:
    """Opens a data source by name.

    Args:
      name: "emoji" (128 px), "emoji/px192" or "emoji/px256"; "icons", or "icons/art", the coloured drawings
        alone, with "/xN" for N images composed from each drawing; "motion", clips, or "motion/images" and
        "motion/sketches", single frames of them, with "/common" after "motion" for few emoji, "/weather" for
        none, and "/xN" for N of each drawing; "tfds:NAME" or "tfds:NAME/CONFIG"; "folder:PATH", a folder of
        images, videos or audio with `captions.jsonl`, see `FolderSource`; "npz:FILE", images of ADM's
        evaluator, see `ArraySource`; "precomputed:PATH", features stored in PATH/SPLIT.
      split: "train", "heldout_pairs" or "heldout_concepts" for emoji; `muse_jax.data.icons.SPLITS` for icons;
        `muse_jax.data.motion.SPLITS` for motion; otherwise a split of the data.
      data_dir: folder of built TFDS data. Default ("" or None): `data` in the current folder for emoji,
        icons and motion, TFDS's own otherwise.

    Returns:
      A `Source`, or a `PrecomputedSource`.

    Raises:
      ValueError: the name or split is unknown, or the data is missing; the message says what to do.
    """
    kind, _, rest = name.partition(":")
    data_dir = data_dir or None
    if kind == "precomputed" and rest:
        from muse_jax.data.precomputed import PrecomputedSource

        return PrecomputedSource(Path(rest) / split)
    if kind == "folder" and rest:
        return FolderSource(rest, split)
    if kind == "npz" and rest:
        from muse_jax.data.arrays import ArraySource

        return ArraySource(rest, split)
    if kind == "tfds" and rest:
        return TfdsSource(_tfds_builder(rest, data_dir), split)
    if kind.split("/")[0] == "emoji" and not rest:
        return TfdsSource(_emoji_builder(kind, DEFAULT_DATA_DIR if data_dir is None else data_dir), split)
    if kind.split("/")[0] == "icons" and not rest:
        return _icons_source(kind, split, DEFAULT_DATA_DIR if data_dir is None else data_dir)
    if kind.split("/")[0] == "motion" and not rest:
        return _motion_source(kind, split, DEFAULT_DATA_DIR if data_dir is None else data_dir)
    raise ValueError(f"unknown data source {name!r}: use one of {NAMES}.")
