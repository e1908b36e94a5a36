"""MotionEval: how often a generated clip shows what its caption says.

Directions are measured from pixels. The attributes of weather are told by linear probes on features of
EfficientNet-Lite0. They are fitted to real clips, as they are and through the tokenizer, so that they tell
what a clip shows and not how sharp it is. Their figures on other real clips, and on these through the
tokenizer, stand beside those of generated ones and say how far the probes can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from muse_jax.data import load_source
from muse_jax.evaluation.clips import Clips, clip_features, direction_of, generate_clips, rebuild
from muse_jax.evaluation.concepts import StyleClassifier, concept_ranks, top_k
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.features import extract_style_features
from muse_jax.evaluation.samples import check_generates, jit_sample

ATTRIBUTES = ("style", "time", "thunder", "precipitation")
_BATCH = 32  # clips that the tokenizer reads at a time

Record = Mapping[str, Any]


class Probes:
    """Linear probes of the attributes of weather clips.

    Args:
      records: real clips of the source `motion`, those of other kinds are left out.
      through: gives clips through the tokenizer, which the probes are fitted to as well; None without one.
    """

    def __init__(self, records: Sequence[Record], through: Callable[[Clips], Clips | None]):
        weather = [record for record in records if record["kind"] == "weather" and record["sky"]]
        real = np.stack([record["video"] for record in weather])
        forms = [clips for clips in (real, through(real)) if clips is not None]
        features = np.concatenate([probe_features(clips) for clips in forms])
        self._probes = {
            name: StyleClassifier.fit(features, [record[name] or "none" for record in weather] * len(forms))
            for name in ATTRIBUTES
        }

    def right(self, clips: Clips, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Which clips show each attribute as their record states it."""
        features = probe_features(clips)
        return {
            name: probe.predict(features) == np.array([record[name] or "none" for record in records])
            for name, probe in self._probes.items()
        }


def probe_features(clips: Clips) -> Float[np.ndarray, "n dim"]:
    """Features of the probes: content and change over the frames, and the style of the middle frame."""
    style = extract_style_features(clips[:, clips.shape[1] // 2])
    return np.concatenate([clip_features(clips), style], axis=1)


def motion_eval(clips: Clips, records: Sequence[Record], real: Clips, probes: Probes) -> dict[str, float]:
    """Shares of clips that are right.

    Args:
      clips: generated for the captions of the records, or real.
      real: the records' own clips.

    Returns:
      direction: of the clips whose record has one. style, time, thunder, precipitation: of weather clips, by
      the probes. retrieval: the share of clips that resemble a real clip of their concept most, of all these
      records. Names without a record are left out.
    """
    scores: dict[str, float] = {}
    moving = [row for row, record in enumerate(records) if record["direction"]]
    if moving:
        found = [direction_of(clips[row]) == records[row]["direction"] for row in moving]
        scores["direction"] = float(np.mean(found))
    weather = [row for row, record in enumerate(records) if record["sky"]]
    if weather:
        right = probes.right(clips[weather], [records[row] for row in weather])
        scores |= {name: float(np.mean(values)) for name, values in right.items()}
    concepts = [record["concept"] for record in records]
    ranks = concept_ranks(clip_features(clips), concepts, clip_features(real), concepts)
    return {**scores, "retrieval": top_k(ranks, 1)}


class MotionEval(Evaluator):
    """MotionEval of clips generated for captions of the data source `motion`.

    Keys:
      split: captions; "": config.data.eval_split. clips: number of captions, at most.
      probe_clips: real clips of the training split that the probes are fitted to. seed: of the samples.
    """

    defaults = {"split": "", "clips": 256, "probe_clips": 1600, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        check_generates(name, context)
        for key in ("clips", "probe_clips"):
            if self.options[key] < 1:
                raise self.refuse(key, "at least 1")
        if context.config.data.source.split("/")[0] != "motion":
            raise ValueError(
                f"The evaluator {name!r} measures the data source 'motion', but config.data.source is "
                f"{context.config.data.source!r}: leave it out of config.evaluators."
            )
        self._sample = jit_sample(context)
        self._probes: Probes | None = None

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates clips and measures them, real ones, and real ones through the tokenizer."""
        data, chosen = self.context.config.data, self.options
        split = chosen["split"] or data.eval_split
        source = load_source(data.source, split, data.data_dir)
        measured = generate_clips(
            self._sample, self.context, params, frozen, source, split, chosen["clips"], chosen["seed"]
        )
        if self._probes is None:
            trained = load_source(data.source, data.split, data.data_dir)
            records = [trained[i] for i in range(min(chosen["probe_clips"], len(trained)))]
            self._probes = Probes(records, lambda clips: rebuild(self.context, frozen, clips, _BATCH))
        table = {
            name: motion_eval(clips, measured.records, measured.real, self._probes)
            for name, clips in measured.rows().items()
        }
        return Report(table["generated"], {"split": split, "clips": len(measured.records), "rows": table})
