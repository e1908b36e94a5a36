"""Distances between generated and real images: FID, KID and similar metrics."""

import functools
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from muse_jax.data import load_source
from muse_jax.evaluation.embedders import EMBEDDERS, figure_name, put_params
from muse_jax.evaluation.embedding import FeatureSums, Sums
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.feature_file import FeatureFile, Progress
from muse_jax.evaluation.figures import METRICS, NEED_FEATURES, check_reference, figures, group_figures
from muse_jax.evaluation.frechet import MIN_SAMPLES
from muse_jax.evaluation.loss import eval_batches
from muse_jax.evaluation.real_images import group_of
from muse_jax.evaluation.reference import load_reference
from muse_jax.evaluation.resizing import MODES
from muse_jax.evaluation.samples import check_generates
from muse_jax.evaluation.sheet import Sheet
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sharding.partitioning import put_batch, put_rows, replicated

SAVE_EVERY = 32  # batches


class Generation(Evaluator):
    """Metrics of images generated for the captions of a split, compared with reference statistics.

    The captions are read in the fixed order of evaluation, and repeated if there are fewer captions than
    samples. Sampling, rounding to uint8, resizing and embedding are one program over the mesh, and moments
    stay on the devices. With `context.folder` a stopped evaluation resumes. For tokenizers the images are
    reconstructions, and the names of metrics start with "r" (rFID).

    Keys:
      metrics: some of fid, sfid, kid, mind, prdc (precision, recall, density, coverage), inception_score,
        cmmd; default: the section's name, or fid.
      network: "inception"; "efficientnet_lite0" if Inception's weights are not available; "clip" for cmmd.
      weights: file with the network's weights, folder of CLIP's; "": see `interop.inception.find_inception`.
      resize: "tf1", "clean" or "none", see `resizing`.
      blur: radius k in pixels of the Gaussian filter of FID-k, applied to generated images as it was to those
        of the reference; 0: none.
      reference: statistics of real images, written by `experiments.prepare_reference`.
      reference_source: data source that the statistics must come from; "": config.data.source.
      split: split of the captions; "": config.data.eval_split.
      num_samples: number of images.
      seed: random seed of the samples.
      bootstrap: number of resamples for 95 % intervals; 0: none.
      per: field of the source's records, such as "style": the FID of each of its values too, from statistics
        made with the same `per`. Groups with too few samples have no figure; "details" names all of them.
    """

    defaults = {
        "metrics": ("fid",),
        "network": "inception",
        "weights": "",
        "resize": "clean",
        "blur": 0,
        "reference": "",
        "reference_source": "",
        "split": "",
        "num_samples": 5000,
        "seed": 0,
        "bootstrap": 0,
        "per": "",
    }

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, {"metrics": (name,), **options} if name in METRICS else options, context)
        self._check()
        self.reconstructs = hasattr(context.task, "reconstruct")
        if not self.reconstructs:
            check_generates(name, context)
        chosen = self.options
        self.embedder = EMBEDDERS[chosen["network"]]
        self.needs_features = bool(chosen["bootstrap"] or NEED_FEATURES & set(chosen["metrics"]))
        self.reference = None
        if set(chosen["metrics"]) != {"inception_score"}:
            source = chosen["reference_source"] or context.config.data.source
            self.reference = load_reference(
                chosen["reference"],
                chosen["network"],
                self.embedder.dim,
                chosen["resize"],
                source,
                chosen["blur"],
            )
            check_reference(chosen["reference"], self.reference, chosen["metrics"], chosen["per"])
        self.split = chosen["split"] or context.config.data.eval_split
        self.groups = tuple(self.reference.groups) if self.reference and chosen["per"] else ()
        self._params = put_params(self.embedder.load(chosen["weights"]), replicated(context.mesh))
        self._sums = FeatureSums(
            self.embedder,
            chosen["resize"],
            chosen["num_samples"],
            context.mesh,
            chosen["blur"],
            "sfid" in chosen["metrics"],
            self.groups,
        )
        self._step = self._jit_step()

    def _check(self) -> None:
        chosen = self.options
        for key, allowed in (("network", tuple(EMBEDDERS)), ("resize", MODES)):
            if chosen[key] not in allowed:
                raise self.refuse(key, f"one of {', '.join(allowed)}")
        if not chosen["metrics"] or set(chosen["metrics"]) - set(METRICS):
            raise self.refuse("metrics", f"some of {', '.join(METRICS)}")
        for metric, network in (("inception_score", "inception"), ("sfid", "inception"), ("cmmd", "clip")):
            if metric in chosen["metrics"] and chosen["network"] != network:
                raise self.refuse("metrics", f"without {metric}, unless network is {network}")
        if "sfid" in chosen["metrics"] and chosen["resize"] == "none":
            raise self.refuse("resize", "tf1 or clean, since sfid compares maps of one size")
        least = MIN_SAMPLES if {"fid", "sfid"} & set(chosen["metrics"]) else 10
        if chosen["num_samples"] < least:
            raise self.refuse("num_samples", f"at least {least}, since fewer give no meaningful figures")
        if chosen["per"] and "fid" not in chosen["metrics"]:
            raise self.refuse("per", "'', since metrics lacks fid, the figure of groups")
        if chosen["blur"] < 0:
            raise self.refuse("blur", "0, or a radius in pixels")
        if chosen["bootstrap"] < 0 or chosen["bootstrap"] == 1:
            raise self.refuse("bootstrap", "0, or at least 2 resamples")

    def _jit_step(self) -> Any:
        """(sums, params, frozen, network's params, batch on the mesh, key) -> (sums, Embedded, images)."""
        whole = replicated(self.context.mesh)

        def step(sums: Sums, params: Any, frozen: Any, network: Any, batch: Any, key: jax.Array) -> Any:
            images = self._images(params, frozen, batch, key)
            sums, embedded = self._sums.add(sums, network, images, batch["example_mask"], batch.get("group"))
            return sums, embedded, images

        return jax.jit(step, donate_argnums=0, out_shardings=(self._sums.shardings, whole, whole))

    def _images(self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        task = self.context.task
        if self.reconstructs:
            reconstruction, _ = task.reconstruct(params, frozen, to_unit_range(batch["image"]))
            return from_unit_range(reconstruction)
        if "generated" in batch:
            return batch["generated"]
        return task.sample(params, frozen, batch, key)

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates images and computes the figures."""
        chosen, folder = self.options, self.context.folder
        with tempfile.TemporaryDirectory() as scratch:
            progress = Progress(folder or Path(scratch), self._identity(), self._sums.shardings)
            start, sums = progress.restore(self._sums.zeros(), self.needs_features)
            done = int(jax.device_get(sums.moments.count))
            size = (chosen["num_samples"], self.embedder.dim)
            features = FeatureFile(progress.features, *size, done) if self.needs_features else None
            sums, sheet = self._add_batches(
                sums, params, frozen, start, progress if folder else None, features
            )
            rows = features.rows if features else np.zeros((0, self.embedder.dim))
            scores, intervals = figures(
                chosen["metrics"], sums, rows, self.reference, chosen["bootstrap"], chosen["seed"]
            )
            progress.remove()
        prefix = "r" if self.reconstructs else ""
        way = chosen["network"], chosen["resize"], chosen["blur"]
        names = {name: prefix + figure_name(name, *way) for name in scores}
        details = {
            "split": self.split,
            "num_samples": chosen["num_samples"],
            "network": chosen["network"],
            "resize": chosen["resize"],
            "blur": chosen["blur"],
            "reference": {
                "file": chosen["reference"],
                **(self.reference.provenance if self.reference else {}),
            },
            "intervals": {names[name]: interval for name, interval in intervals.items()},
        }
        named = {names[name]: score for name, score in scores.items()}
        if self.reference and self.groups:
            found, counts = group_figures(sums, self.reference, MIN_SAMPLES)
            named |= {f"{names['fid']}/{group}": score for group, score in found.items()}
            few = sorted(set(counts) - set(found))
            details["groups"] = {"per": chosen["per"], "num_samples": counts, "too_few_samples": few}
        return Report(named, details, sheet.images())

    def _identity(self) -> dict[str, Any]:
        # The samples do not depend on the mesh.
        config = {key: value for key, value in self.context.config.to_dict().items() if key != "mesh"}
        weights = dict(self.context.weights)
        return {"options": self.options, "split": self.split, "config": config, "weights": weights}

    def _add_batches(
        self,
        sums: Sums,
        params: Any,
        frozen: Any,
        start: int,
        progress: Progress | None,
        features: FeatureFile | None,
    ) -> tuple[Sums, Sheet]:
        """Sums over all samples, and a sheet of the samples generated in this call."""
        sheet = Sheet(self.reference.features if self.reference else np.zeros((0, self.embedder.dim)))
        count = int(jax.device_get(sums.moments.count))
        for number, batch in itertools.islice(self._batches(), start, None):
            if count == self.options["num_samples"]:
                break
            key = jax.random.fold_in(jax.random.key(self.options["seed"]), number)
            batch = self._put(params, frozen, batch, key)
            sums, embedded, images = self._step(sums, params, frozen, self._params, batch, key)
            mask = np.asarray(embedded.mask)
            count += int(mask.sum())
            kept = np.asarray(embedded.features)[mask]
            sheet.add(np.asarray(images)[mask], kept)
            if features is not None:
                features.append(kept)
            if progress is not None and (number + 1) % SAVE_EVERY == 0:
                if features is not None:
                    features.flush()
                progress.save(number + 1, sums)
        return sums, sheet

    def _batches(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbered batches of the split, which is read repeatedly."""
        passes = (eval_batches(self.context.task, self.split) for _ in itertools.count())
        batches = itertools.chain.from_iterable(passes)
        yield from enumerate(map(self._with_groups, batches) if self.groups else batches)

    def _with_groups(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the place of each row's group in `groups`, or -1."""
        places = {name: place for place, name in enumerate(self.groups)}
        rows = zip(batch["index"], batch["example_mask"], strict=True)
        names = [
            group_of(self._source[int(row)], self.options["per"]) if there else "" for row, there in rows
        ]
        return {**batch, "group": np.array([places.get(name, -1) for name in names], np.int32)}

    @functools.cached_property
    def _source(self) -> Any:
        data = self.context.config.data
        return load_source(data.source, self.split, data.data_dir)

    def _put(self, params: Any, frozen: Any, batch: dict[str, Any], key: jax.Array) -> dict[str, Any]:
        """Puts the batch on the mesh, with images generated before if the task (a pipeline) is not traced."""
        task, mesh = self.context.task, self.context.mesh
        if self.reconstructs or getattr(task, "traced", True):
            return put_batch(batch, mesh)
        generated = np.asarray(task.sample(params, frozen, batch, key))
        rows = {name: batch[name] for name in ("example_mask", "group") if name in batch}
        return put_rows({"generated": generated, **rows}, mesh)
