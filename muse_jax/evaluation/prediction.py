"""Video prediction: the PSNR of predicted frames, against that of copying the last given one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.image_quality import psnr
from muse_jax.evaluation.loss import eval_batches
from muse_jax.sharding.partitioning import put_batch, replicated


def frame_psnr(
    clips: UInt8[Array, "b frames h w 3"], targets: UInt8[Array, "b frames h w 3"], given: int
) -> Float[Array, " b"]:
    """Mean over the frames after the first `given` of their PSNR, in dB."""
    pairs = [psnr(clips[:, frame], targets[:, frame]) for frame in range(given, clips.shape[1])]
    return jnp.mean(jnp.stack(pairs), axis=0)


def copy_last(clips: UInt8[Array, "b frames h w 3"], given: int) -> UInt8[Array, "b frames h w 3"]:
    """Clips whose frames after the first `given` repeat the last of these."""
    last = jnp.repeat(clips[:, given - 1 : given], clips.shape[1] - given, axis=1)
    return jnp.concatenate([clips[:, :given], last], axis=1)


class Prediction(Evaluator):
    """PSNR of the frames that a task predicts from the first ones, in dB, over a split's clips.

    Scores: psnr, of the predicted frames; copy_psnr, of the last given frame repeated; gain, the difference.
    The task has `predict(params, frozen, batch, key, given)`, which returns uint8 clips, and its batches have
    "video". One frame does not show where a thing moves: two do.

    Keys:
      split: clips; "": config.data.eval_split. clips: their number, at most. given: number of frames that are
      given. seed: of the samples.
    """

    defaults = {"split": "", "clips": 256, "given": 1, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        if not hasattr(context.task, "predict"):
            raise ValueError(
                f"The evaluator {name!r} measures predicted frames, but the task {context.config.task!r} "
                "predicts none: leave it out of config.evaluators."
            )
        if context.config.data.get("features"):
            raise ValueError(
                f"The evaluator {name!r} compares pixels, but config.data.features holds tokens only: set it "
                "to ''."
            )
        if self.options["clips"] < 1:
            raise self.refuse("clips", "at least 1")
        most = context.config.data.frames - 1
        if not 1 <= self.options["given"] <= most:
            raise self.refuse("given", f"from 1 to {most}, so that a frame of config.data.frames remains")
        self._scores = jax.jit(self._scores_of_batch, out_shardings=replicated(context.mesh))

    def _scores_of_batch(self, params: Any, frozen: Any, batch: Any, key: Array) -> dict[str, Array]:
        clips, given = batch["video"], self.options["given"]
        predicted = self.context.task.predict(params, frozen, batch, key, given)
        return {
            "psnr": frame_psnr(predicted, clips, given),
            "copy_psnr": frame_psnr(copy_last(clips, given), clips, given),
        }

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Predicts clips of the split and compares them with what follows."""
        split = self.options["split"] or self.context.config.data.eval_split
        found: dict[str, list[float]] = {"psnr": [], "copy_psnr": []}
        for number, batch in enumerate(eval_batches(self.context.task, split)):
            there = np.asarray(batch["example_mask"])
            key = jax.random.fold_in(jax.random.key(self.options["seed"]), number)
            scores = self._scores(params, frozen, put_batch(batch, self.context.mesh), key)
            for name, values in jax.device_get(scores).items():
                found[name] += values[there].tolist()
            if len(found["psnr"]) >= self.options["clips"]:
                break
        means = {name: float(np.mean(values[: self.options["clips"]])) for name, values in found.items()}
        scores = {**means, "gain": means["psnr"] - means["copy_psnr"]}
        measured = min(len(found["psnr"]), self.options["clips"])
        return Report(scores, {"split": split, "clips": measured, "given": self.options["given"]})
