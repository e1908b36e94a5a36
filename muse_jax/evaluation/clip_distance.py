"""Fréchet distances of clips: on I3D, the FVD, and on the features of EfficientNet-Lite0."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from muse_jax.data import load_source
from muse_jax.evaluation.clips import Clips, clip_features, generate_clips
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.frechet import MIN_SAMPLES, frechet_distance
from muse_jax.evaluation.resizing import resize_images
from muse_jax.evaluation.samples import check_generates, jit_sample
from muse_jax.interop.i3d import load_i3d
from muse_jax.nn import i3d

_BATCH = 8
_RESIZES = ("tf1", "clean")


def clip_distance(first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m dim"]) -> float:
    """The Fréchet distance of two sets of features of clips."""
    moments = [
        part
        for features in (first, second)
        for part in (features.mean(axis=0), np.cov(features, rowvar=False))
    ]
    return frechet_distance(*moments)


class ClipDistance(Evaluator):
    """FVD-EfficientNetLite0 of generated clips, and of real clips through the tokenizer, to other real clips.

    Scores: fvd_efficientnet_lite0, and fvd_efficientnet_lite0_tokenizer where the task has a tokenizer. Both
    are noisy below 2,000 clips: compare figures of equal numbers only, and never with an FVD.

    Keys:
      split: captions; "": config.data.eval_split.
      reference_split: real clips, drawn at random; "": config.data.split.
      num_samples: number of clips on each side, at most. seed: of the samples.
    """

    defaults = {"split": "", "reference_split": "", "num_samples": MIN_SAMPLES, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        check_generates(name, context)
        if self.options["num_samples"] < 2:
            raise self.refuse("num_samples", "at least 2")
        self._sample = jit_sample(context)

    @property
    def figure(self) -> str:
        """The name of the score."""
        return "fvd_efficientnet_lite0"

    def features(self, clips: Clips) -> Float[np.ndarray, "n dim"]:
        """The features that are compared."""
        return clip_features(clips)

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates clips and compares their distribution with that of real ones."""
        data, chosen = self.context.config.data, self.options
        split = chosen["split"] or data.eval_split
        reference_split = chosen["reference_split"] or data.split
        source = load_source(data.source, split, data.data_dir)
        count = chosen["num_samples"]
        measured = generate_clips(
            self._sample, self.context, params, frozen, source, split, count, chosen["seed"]
        )
        real = real_clips(load_source(data.source, reference_split, data.data_dir), count)
        reference = self.features(real[:, : measured.generated.shape[1]])
        scores = {self.figure: clip_distance(self.features(measured.generated), reference)}
        if measured.rebuilt is not None:
            scores[f"{self.figure}_tokenizer"] = clip_distance(self.features(measured.rebuilt), reference)
        details = {"split": split, "reference_split": reference_split, "num_samples": len(measured.generated)}
        return Report(scores, {**details, "num_reference": len(reference)})


class FVD(ClipDistance):
    """The Fréchet video distance: that of I3D's logits (Unterthiner et al., 2018).

    Scores: fvd_tf1, or with the name of another resize; and the same with "_tokenizer".

    Keys, beside those of `ClipDistance`:
      resize: to 224 px, "tf1", as the FVD's first program, or "clean"; see `resizing`.
      weights: file or folder with I3D's weights; "": PyTorch's cache of downloads.
    """

    defaults = {**ClipDistance.defaults, "num_samples": 2048, "resize": "tf1", "weights": ""}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        frames = context.config.data.get("frames", i3d.MIN_FRAMES)
        if frames < i3d.MIN_FRAMES:
            raise ValueError(
                f"The evaluator {name!r} needs clips of {i3d.MIN_FRAMES} frames or more, but "
                f"config.data.frames is {frames}: measure 'fvd_efficientnet_lite0'."
            )
        if self.options["resize"] not in _RESIZES:
            raise self.refuse("resize", f"one of {', '.join(_RESIZES)}")
        self._params = load_i3d(self.options["weights"])

    @property
    def figure(self) -> str:
        return f"fvd_{self.options['resize']}"

    def features(self, clips: Clips) -> Float[np.ndarray, "n dim"]:
        return np.concatenate(
            [
                np.asarray(i3d_logits(self._params, clips[start : start + _BATCH], self.options["resize"]))
                for start in range(0, len(clips), _BATCH)
            ]
        )


@functools.partial(jax.jit, static_argnames="resize")
def i3d_logits(
    params: Any, clips: UInt8[Array, "b t height width 3"], resize: str = "tf1"
) -> Float[Array, "b 400"]:
    """I3D's logits of clips, resized to 224 px."""
    frames = resize_images(clips.reshape(-1, *clips.shape[2:]), i3d.SIZE, resize)
    frames = frames.reshape(*clips.shape[:2], *frames.shape[1:])
    return i3d.I3D().apply({"params": params}, frames / 127.5 - 1)


def real_clips(source: Any, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` different clips of a source, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(source))[:count]
    return np.stack([source[int(index)]["video"] for index in chosen])
