"""Fréchet distance of clips on the features of EfficientNet-Lite0."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from muse_jax.data import load_source
from muse_jax.evaluation.clips import clip_features, generate_clips
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.frechet import MIN_SAMPLES, frechet_distance
from muse_jax.evaluation.samples import check_generates, jit_sample


def clip_distance(first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m dim"]) -> float:
    """The Fréchet distance of two sets of `clip_features`, FVD-EfficientNetLite0.

    The FVD is measured on I3D, whose weights no package has; the two must not be compared.
    """
    moments = [
        part
        for features in (first, second)
        for part in (features.mean(axis=0), np.cov(features, rowvar=False))
    ]
    return frechet_distance(*moments)


class ClipDistance(Evaluator):
    """FVD-EfficientNetLite0 of generated clips, and of real clips through the tokenizer, to other real clips.

    Scores: fvd_efficientnet_lite0, and fvd_efficientnet_lite0_tokenizer where the task has a tokenizer. Both
    are noisy below 2,000 clips: compare figures of equal numbers only.

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
        reference = clip_features(real[:, : measured.generated.shape[1]])
        scores = {"fvd_efficientnet_lite0": clip_distance(clip_features(measured.generated), reference)}
        if measured.rebuilt is not None:
            rebuilt = clip_distance(clip_features(measured.rebuilt), reference)
            scores["fvd_efficientnet_lite0_tokenizer"] = rebuilt
        details = {"split": split, "reference_split": reference_split, "num_samples": len(measured.generated)}
        return Report(scores, {**details, "num_reference": len(reference)})


def real_clips(source: Any, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` different clips of a source, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(source))[:count]
    return np.stack([source[int(index)]["video"] for index in chosen])
