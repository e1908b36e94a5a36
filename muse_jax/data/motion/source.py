"""The source `motion`: clips of weather icons and moved emoji, composed from stored drawings on reading."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from muse_jax.data.captions import emoji_prompt
from muse_jax.data.motion import moves, phrases
from muse_jax.data.motion.common import COMMON_CONCEPTS
from muse_jax.data.motion.rendering import FPS, STORED_FRAMES
from muse_jax.data.motion.splits import SPLITS, heldout_motion
from muse_jax.data.motion.weather import SKETCH_STYLE, parse_weather, thing
from muse_jax.media.image import decode_image
from muse_jax.media.video import split_strip

PAIR_SHARE = 0.2
COMMON_REPEATS = 4  # of each emoji among the common concepts, which makes them two fifths of the clips
SKETCH_SHARE = 0.1  # of single frames of emoji in training
DIRECTION_SHARE = 0.65  # of single drawings, as far as a direction is not the one held out
_EDGE = 40  # levels of 255 between neighbouring pixels that an outline separates
_WHOLE = (0, 0, moves.SIZE, moves.SIZE)
_HALVES = {  # of the frame, for two drawings that move along the same axis
    "columns": ((0, 0, 64, 32), (0, 32, 64, 64)),
    "rows": ((0, 0, 32, 64), (32, 0, 64, 64)),
}
_PAIR_MOTIONS = {"columns": ("left", "right"), "rows": ("up", "down")}


class MotionSource:
    """Random access to clips of 8 frames, 64 px, at 8 frames per second.

    Record `i` is composed from drawing `i % n` of the n drawings of the split with a generator seeded by `i`.
    Reading it again gives the same record, and record `i + n` is another clip of the same drawing: a weather
    icon from another time of its animation, an emoji in another motion, or with a second emoji.

    A record has "video" uint8 (8, 64, 64, 3); "sketch", the same frames as black lines on white; "fps";
    "captions" (the plain one first; only that one in splits other than "train"); "name", "concept", "style",
    "kind" ("weather", "move" or "pair"), and, "" where they do not apply, the labels of evaluators: "motion"
    and "direction" of "move"; "sky", "time", "thunder" and "precipitation" of "weather". In the other forms
    it has "image", one frame of the clip or of its sketch, in place of "video", "sketch" and "fps", and
    captions without a motion.

    Args:
      builder: the TFDS builder `motion`, already built.
      split: one of `SPLITS`.
      compositions: number of clips per drawing, at least 1.
      form: "clips"; "images", single frames; or "sketches", single frames of sketches.
      drawings: "all"; "weather", only weather icons; or "common", weather icons and the emoji of
        `COMMON_CONCEPTS`, each of their drawings as `COMMON_REPEATS` of the n: a vocabulary that a small
        network learns. The split "validation" has no emoji of it.
    """

    def __init__(
        self, builder: Any, split: str, compositions: int = 1, form: str = "clips", drawings: str = "all"
    ):
        import tensorflow_datasets as tfds

        if split not in SPLITS:
            raise ValueError(f"motion has no split {split!r}: it has {', '.join(SPLITS)}.")

        def stored(name: str) -> list[dict[str, Any]]:
            decoders = {"image": tfds.decode.SkipDecoding()}
            found = name in builder.info.splits
            return (
                [_decoded(record) for record in builder.as_data_source(name, decoders=decoders)]
                if found
                else []
            )

        self.split, self.compositions, self.form = split, compositions, form
        self.fields = ("video", "sketch") if form == "clips" else ("image",)
        self._weather = stored(f"weather_{split}")
        self._sprites = []
        if drawings != "weather":
            self._sprites = stored("sprites_validation" if split == "validation" else "sprites_train")
        if drawings == "common":
            chosen = [record for record in self._sprites if record["concept"] in COMMON_CONCEPTS]
            self._sprites = chosen * COMMON_REPEATS
        self._sketches = {
            record["concept"]: record for record in self._weather if record["style"] == SKETCH_STYLE
        }
        self._by_style: dict[str, list[dict[str, Any]]] = {}
        for record in self._sprites:
            self._by_style.setdefault(record["style"], []).append(record)
        self._seed = SPLITS.index(split)

    def __len__(self) -> int:
        return self.compositions * (len(self._weather) + len(self._sprites))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        drawing = index % (len(self._weather) + len(self._sprites))
        rng = np.random.default_rng((self._seed, index))
        if drawing < len(self._weather):
            record = self._weather_clip(self._weather[drawing], rng)
        else:
            record = self._moved(self._sprites[drawing - len(self._weather)], rng)
        labels = dict.fromkeys(("motion", "direction", "sky", "time", "thunder", "precipitation"), "")
        record = {**labels, "fps": FPS, **record}
        if self.form != "clips":
            some = self.split == "train" and "shown" in record and rng.random() < SKETCH_SHARE
            lines = self.form == "sketches" or some
            record = _frame(record, int(rng.integers(moves.FRAMES)), lines)
        if self.split != "train":
            record["captions"] = record["captions"][:1]
        return record

    def _weather_clip(self, stored: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        start = int(rng.integers(STORED_FRAMES - moves.FRAMES + 1))
        frames = _strip(stored)[start : start + moves.FRAMES]
        sketch = self._sketches.get(stored["concept"])
        lines = _strip(sketch)[start : start + moves.FRAMES] if sketch else outlines(frames)
        about = {key: stored[key] for key in ("name", "concept", "style")}
        weather = parse_weather(stored["concept"])
        record = {**about, "kind": "weather", "video": frames, "sketch": lines}
        if weather is None:
            return {**record, "captions": phrases.thing_captions(thing(stored["concept"]), stored["style"])}
        labels = {name: getattr(weather, name) for name in ("sky", "time", "thunder", "precipitation")}
        return {**record, **labels, "captions": phrases.weather_captions(weather, stored["style"])}

    def _moved(self, stored: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if self.split == "train" and rng.random() < PAIR_SHARE:
            return self._pair(stored, rng)
        concept, style = stored["concept"], stored["style"]
        motion = self._motion(concept, rng)
        poses = moves.draw_poses(motion, moves.SINGLE_SIDES, _WHOLE, rng)
        return {
            **_clip([stored], [poses]),
            "name": stored["name"],
            "concept": concept,
            "style": style,
            "kind": "move",
            "motion": motion,
            "direction": motion if motion in moves.DIRECTIONS else "",
            "captions": phrases.move_captions(concept, style, motion),
            "shown": [emoji_prompt(concept)],
        }

    def _motion(self, concept: str, rng: np.random.Generator) -> str:
        held_out = heldout_motion(concept)
        if self.split == "heldout_pairs":
            return held_out
        directed = rng.random() < DIRECTION_SHARE
        names = tuple(moves.DIRECTIONS) if directed else moves.OTHER_MOTIONS
        return _choose([name for name in names if self.split != "train" or name != held_out], rng)

    def _pair(self, first: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        style = first["style"]
        second = _choose(self._by_style[style], rng)
        axis = _choose(tuple(_HALVES), rng)
        halves = _HALVES[axis]
        motions, poses = [], []
        for stored, half in zip((first, second), rng.permutation(2).tolist(), strict=True):
            held_out = heldout_motion(stored["concept"])
            motions.append(_choose([name for name in _PAIR_MOTIONS[axis] if name != held_out], rng))
            poses.append(moves.draw_poses(motions[-1], moves.PAIR_SIDES, halves[half], rng))
        concepts = first["concept"], second["concept"]
        return {
            **_clip([first, second], poses),
            "name": f"{first['name']} and {second['name']}",
            "concept": concepts[0],
            "style": style,
            "kind": "pair",
            "captions": phrases.pair_captions((concepts[0], motions[0]), (concepts[1], motions[1]), style),
            "shown": [emoji_prompt(concept) for concept in concepts],
        }


def _choose(choices: Any, rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _decoded(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored record whose texts are str and whose image remains encoded."""
    return {key: value if key == "image" else value.decode() for key, value in stored.items()}


def _strip(stored: dict[str, Any]) -> UInt8[np.ndarray, "frames 64 64 3"]:
    return split_strip(decode_image(stored["image"]))


def _clip(stored: list[dict[str, Any]], poses: list[list[moves.Pose]]) -> dict[str, Any]:
    sprites = [Image.open(io.BytesIO(record["image"]), formats=("PNG",)).convert("RGBA") for record in stored]
    frames = np.stack([moves.draw_frame(sprites, list(now)) for now in zip(*poses, strict=True)])
    return {"video": frames, "sketch": outlines(frames)}


def outlines(
    frames: UInt8[np.ndarray, "frames height width 3"],
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Sketches: black where neighbouring pixels of a frame differ by more than `_EDGE` in a channel."""
    levels = frames.astype(np.int16)
    edges = np.zeros(frames.shape[:3], bool)
    edges[:, 1:] |= (np.abs(np.diff(levels, axis=1)) > _EDGE).any(-1)
    edges[:, :, 1:] |= (np.abs(np.diff(levels, axis=2)) > _EDGE).any(-1)
    return np.repeat(np.where(edges, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def _frame(record: dict[str, Any], frame: int, lines: bool) -> dict[str, Any]:
    """One frame of a clip, or of its sketch, as the record of an image."""
    image = {key: value for key, value in record.items() if key not in ("video", "sketch", "fps", "shown")}
    image["image"] = record["sketch" if lines else "video"][frame]
    if "shown" in record:
        things = " and ".join(record["shown"])
        sketch, plain = [f"a sketch of {things}"], phrases.image_captions(things, record["style"])
        image["captions"] = sketch if lines else plain
    return image
