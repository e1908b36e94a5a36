"""Does a checkpoint draw what is asked? Concept retrieval, style, and what its tokenizers keep.

    python -m experiments.benchmark.quality --model=emoji --out=runs/quality
    python -m experiments.benchmark.quality --model=emoji-cogview2 --coarse --out=runs/quality_cogview2
    python -m experiments.benchmark.quality --model=runs/bundle --order=halton --guidance_scale=4

Pictures of `--pairs` (concept, style) pairs of `train` and of `heldout_pairs` (the concept was trained on in
another style) are generated from the plain prompt. The gallery is every real picture of every concept of the
three splits, at the generated size. Concepts are ranked by the best cosine similarity of EfficientNet-Lite0
features; ties count against the picture. Rows:
  generated      the gallery is whole, with the asked pair's own real picture in it.
  unfiltered     of CogView2: all candidates, of which `generated` is the one with the likeliest caption.
  reconstructed  the real pictures of the same pairs through the last tokenizer; same gallery. A network
                 that drew perfect tokens would get this.
  ceiling        a real picture of the same concept in another style (at random where there are several),
                 against the gallery without that one picture. Pairs without another style are left out.
  reconstructed ceiling   the ceiling's queries through the last tokenizer, their own pictures left out.
  floor          the generated pictures, scored against another pair's prompt (shuffled, shifted by one).
Style is told by a linear classifier on early maps' statistics and colours, fitted to the real train pictures;
the row `real` is its accuracy on real pictures of heldout_pairs and heldout_concepts, which it has not seen.
"""

import dataclasses
import json
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from PIL import Image

from experiments import apps
from muse_jax.data import CorruptRecordError, emoji_prompt, load_source
from muse_jax.evaluation import (
    FeatureMoments,
    StyleClassifier,
    concept_ranks,
    evaluate_tokenizer,
    extract_features,
    extract_style_features,
    fd_efficientnet_lite0,
    reconstruct,
    top_k,
)
from muse_jax.systems.base import LoadedStage as Stage
from muse_jax.systems.base import load_pipeline
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.muse.pipeline import MusePipeline

_MODEL = flags.DEFINE_string("model", "emoji", "A packaged checkpoint, or the directory of one.")
_OUT = flags.DEFINE_string("out", "runs/quality", "Folder for quality.json, samples.png and cached features.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Where the emoji data is built.")
_PAIRS = flags.DEFINE_integer("pairs", 256, "Pairs drawn of each split.", lower_bound=2)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Pictures generated at a time.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", "", "Devices along each axis, such as data=4; one device by default.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the pairs and the pictures.", lower_bound=0, upper_bound=300)
_STEPS = flags.DEFINE_integer("num_steps", None, "Base steps; the checkpoint's own by default, as below.")
_SUPERRES_STEPS = flags.DEFINE_integer("superres_steps", None, "Super-resolution steps.")
_GUIDANCE = flags.DEFINE_float("guidance_scale", None, "Guidance scale.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Sampling temperature.")
_CHOICE = flags.DEFINE_float("choice_temperature", None, "Noise of the confidence order.")
_ORDER = flags.DEFINE_enum("order", None, ["confidence", "halton"], "The order in which tokens are drawn.")
_CANDIDATES = flags.DEFINE_integer("candidates", None, "CogView2: pictures drawn of each prompt.")
_TOP_K = flags.DEFINE_integer("top_k", None, "CogView2: draw from so many codes; 0: all.")
_TOP_CLUSTERS = flags.DEFINE_integer("top_clusters", None, "CogView2: draw from so many clusters; 0: none.")
_TEXT_WEIGHT = flags.DEFINE_float("text_weight", None, "CogView2: how much more it looks at the text.")
_COARSE = flags.DEFINE_bool("coarse", False, "CogView2: without its super-resolution.")
_FD = flags.DEFINE_integer(
    "fd_samples", 0, "Pictures of train pairs for FD-EfficientNetLite0, 2000 or more; 0 leaves it out."
)
_TOKENIZERS = flags.DEFINE_bool("tokenizers", True, "Whether the tokenizers are measured too.")

_OPTIONS: tuple[Any, ...] = (_STEPS, _SUPERRES_STEPS, _GUIDANCE, _TEMPERATURE, _CHOICE, _ORDER)
_OPTIONS += (_CANDIDATES, _TOP_K, _TOP_CLUSTERS, _TEXT_WEIGHT)
_SPLITS = ("train", "heldout_pairs", "heldout_concepts")
_GRID = (4, 8)  # columns and rows of pairs in samples.png, for each split


Pipeline = MusePipeline | CogView2Pipeline


class Real(NamedTuple):
    """The real pictures of all splits, at one size, and their features."""

    images: np.ndarray
    concepts: np.ndarray
    styles: np.ndarray
    splits: np.ndarray
    features: np.ndarray
    style_features: np.ndarray


def _say(text: str) -> None:
    print(text, flush=True)


def _progress(what: str):
    """Prints at most once in five seconds."""
    last = [time.monotonic()]

    def report(done: int, count: int) -> None:
        if time.monotonic() - last[0] > 5 or done == count:
            last[0] = time.monotonic()
            _say(f"{what}: {done} of {count}")

    return report


def _load_real(size: int, data_dir: str, cache: Path) -> Real:
    records = []
    for split in _SPLITS:
        source = load_source("emoji", split, data_dir)
        for index in range(len(source)):
            try:
                records.append((split, source[index]))
            except CorruptRecordError as error:
                _say(f"skipped: {error}")
    images = np.stack([_at_size(record["image"], size) for _, record in records])
    concepts, styles = (np.array([record[key] for _, record in records]) for key in ("concept", "style"))
    splits = np.array([split for split, _ in records])
    print_of_data = f"{len(images)} {int(images.astype(np.int64).sum())}"
    if cache.is_file():
        with np.load(cache) as stored:
            if str(stored["data"]) == print_of_data:
                return Real(images, concepts, styles, splits, stored["features"], stored["style_features"])
    features = extract_features(images, progress=_progress("features of real pictures"))
    style_features = extract_style_features(images, progress=_progress("styles of real pictures"))
    np.savez(cache, data=print_of_data, features=features, style_features=style_features)
    return Real(images, concepts, styles, splits, features, style_features)


def _at_size(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def _generate(pipe: Pipeline, real: Real, rows: np.ndarray, seed: int) -> np.ndarray:
    """(pairs, candidates, height, width, 3) of the plain prompts of the pairs in `rows`, the best ones first.

    In batches of one size: one compilation.
    """
    options = {flag.name: flag.value for flag in _OPTIONS if flag.value is not None}
    if isinstance(pipe, CogView2Pipeline):
        options["keep"] = options.get("candidates", pipe.coarse.sampling.num_candidates)
    prompts = [emoji_prompt(str(real.concepts[row]), str(real.styles[row])) for row in rows]
    report, pictures = _progress("prompts drawn"), []
    for start in range(0, len(prompts), _BATCH.value):
        batch = prompts[start : start + _BATCH.value]
        filled = batch + batch[-1:] * (_BATCH.value - len(batch))
        # Picture i depends on the seed and i: every batch needs a seed of its own.
        pictures.append(pipe.generate(filled, seed=seed + start, **options)[: len(batch)])
        report(start + len(batch), len(prompts))
    drawn = np.concatenate(pictures)
    return drawn if drawn.ndim == 5 else drawn[:, None]


def _other_styles(real: Real, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A real picture in another style for each pair of `rows` that has one: (those pairs, the pictures)."""
    by_concept = defaultdict(list)
    for row, concept in enumerate(real.concepts):
        by_concept[concept].append(row)
    kept, others = [], []
    for row in rows:
        candidates = [r for r in by_concept[real.concepts[row]] if real.styles[r] != real.styles[row]]
        if candidates:
            kept.append(row)
            others.append(rng.choice(candidates))
    return np.array(kept, int), np.array(others, int)


def _score(
    real: Real, classifier: StyleClassifier, images: np.ndarray, asked: np.ndarray, exclude: Any = None
) -> dict[str, Any]:
    """Scores of pictures against the pairs in `asked`."""
    ranks = concept_ranks(
        extract_features(images),
        real.concepts[asked].tolist(),
        real.features,
        real.concepts.tolist(),
        exclude,
    )
    styles = classifier.predict(extract_style_features(images))
    return {
        "top1": top_k(ranks, 1),
        "top5": top_k(ranks, 5),
        "median_rank": float(np.median(ranks)) + 1,
        "style": float(np.mean(styles == real.styles[asked])),
        "count": len(images),
    }


def _measure_split(
    pipe: Pipeline, real: Real, classifier: StyleClassifier, split: str
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """All rows of one split; the generated pictures and their pairs."""
    rng = np.random.default_rng(_SEED.value)
    rows = rng.permutation(np.flatnonzero(real.splits == split))[: _PAIRS.value]
    seed = 1_000_000 * (1 + _SPLITS.index(split)) + 10_000_000 * _SEED.value
    candidates = _generate(pipe, real, rows, seed)
    pictures, count = candidates[:, 0], candidates.shape[1]
    kept, others = _other_styles(real, rows, rng)
    scores = {
        "generated": _score(real, classifier, pictures, rows),
        "floor": _score(real, classifier, pictures, np.roll(rows, 1)),
    }
    if count > 1:
        every = candidates.reshape(-1, *pictures.shape[1:])
        scores["unfiltered"] = _score(real, classifier, every, np.repeat(rows, count))
    queries = ["ceiling"]
    if _TOKENIZERS.value:
        scores["reconstructed"] = _score(real, classifier, _rebuild(pipe, real.images[rows]), rows)
        queries.append("reconstructed ceiling")
    for name in queries if len(others) else ():
        images = real.images[others] if name == "ceiling" else _rebuild(pipe, real.images[others])
        scores[name] = _score(real, classifier, images, others, others.tolist())
        # The ceiling's real pictures of train are those the classifier was fitted to.
        scores[name] |= {"style": None, "left_out": len(rows) - len(kept)}
    return scores, pictures, rows


def _stages(pipe: Pipeline) -> dict[str, Any]:
    stages = {field.name: getattr(pipe, field.name) for field in dataclasses.fields(pipe)}
    return {name: stage for name, stage in stages.items() if hasattr(stage, "sampling")}


def _tokenizers(pipe: Pipeline) -> list[tuple[int, Stage]]:
    """The size of each stage's pictures, and the stage whose tokenizer they go through."""
    stages = [stage for stage in _stages(pipe).values() if isinstance(stage, Stage)]
    sizes = {stage.image_size[0]: stage for stage in stages}
    return sorted({**sizes, pipe.image_size[0]: stages[-1]}.items(), key=lambda item: item[0])


def _rebuild(pipe: Pipeline, images: np.ndarray) -> np.ndarray:
    _, stage = _tokenizers(pipe)[-1]
    return reconstruct(stage.tokenizer, stage.tokenizer_params, images, _BATCH.value)[1]


def _measure_tokenizers(pipe: Pipeline, real: Real) -> dict[str, Any]:
    heldout = real.images[real.splits == "heldout_concepts"]
    result = {}
    for size, stage in _tokenizers(pipe):
        images = np.stack([_at_size(image, size) for image in heldout])
        result[f"{size} px"] = evaluate_tokenizer(stage.tokenizer, stage.tokenizer_params, images)
    return result


def _measure_fd(pipe: Pipeline, real: Real) -> dict[str, Any]:
    """Pictures of `fd_samples` train pairs, used again where there are fewer, to all real ones of train."""
    train = np.flatnonzero(real.splits == "train")
    rng = np.random.default_rng(_SEED.value)
    rounds = -(-_FD.value // len(train))
    rows = np.concatenate([rng.permutation(train) for _ in range(rounds)])[: _FD.value]
    features = extract_features(_generate(pipe, real, rows, 500_000_000 + _SEED.value)[:, 0])
    generated, reference = FeatureMoments().update(features), FeatureMoments().update(real.features[train])
    value = fd_efficientnet_lite0(generated, reference)
    return {"FD-EfficientNetLite0": value, "samples": generated.count, "real": reference.count}


def _sample_grid(real: Real, pictures: np.ndarray, rows: np.ndarray) -> Image.Image:
    """Each real picture with the generated one to its right."""
    columns, lines = _GRID
    count = min(columns * lines, len(rows))
    size = pictures.shape[1]
    canvas = np.full((-(-count // columns) * size, columns * (2 * size + 8), 3), 255, np.uint8)
    for k in range(count):
        y, x = k // columns * size, k % columns * (2 * size + 8)
        canvas[y : y + size, x : x + 2 * size] = np.concatenate([real.images[rows[k]], pictures[k]], axis=1)
    return Image.fromarray(canvas)


def _table(results: dict[str, Any]) -> str:
    lines = [f"{'split':14} {'row':22} {'top-1':>6} {'top-5':>6} {'median':>7} {'style':>6} {'count':>6}"]
    for split, rows in results["retrieval"].items():
        for row, s in rows.items():
            style = "" if s["style"] is None else f"{s['style']:.3f}"
            lines.append(
                f"{split:14} {row:22} {s['top1']:6.3f} {s['top5']:6.3f} {s['median_rank']:7.1f} {style:>6} "
                f"{s['count']:6}"
            )
    for split, accuracy in results["style_of_real"].items():
        lines.append(f"{split:14} {'real':22} {'':6} {'':6} {'':7} {accuracy:6.3f}")
    for size, s in results.get("tokenizers", {}).items():
        lines.append(
            f"tokenizer {size}: PSNR {s['psnr']:.2f} dB, SSIM {s['ssim']:.4f}, code usage "
            f"{s['code_usage']:.3f}, perplexity {s['code_perplexity']:.0f}, {s['count']} heldout_concepts"
        )
    if "fd" in results:
        fd = results["fd"]
        lines.append(f"FD-EfficientNetLite0 {fd['FD-EfficientNetLite0']:.3f} of {fd['samples']} samples")
    return "\n".join(lines)


def main() -> None:
    if 0 < _FD.value < 2000:
        raise ValueError(f"fd_samples is {_FD.value}; give 2000 or more, or 0 to leave it out.")
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    pipe = load_pipeline(_MODEL.value, mesh=apps.parse_mesh(_MESH.value))
    if unknown := [
        f.name for f in _OPTIONS if f.value is not None and not apps.taken({f.name: 0}, pipe.generate)
    ]:
        raise ValueError(
            f"--{unknown[0]} is given, but a {type(pipe).__name__} has no such option: leave it out."
        )
    if _COARSE.value and isinstance(pipe, CogView2Pipeline):
        pipe = dataclasses.replace(pipe, direct=None, iterative=None)
    size = pipe.image_size[0]
    real = _load_real(size, _DATA_DIR.value, out / f"real_features_{size}.npz")
    train = real.splits == "train"
    classifier = StyleClassifier.fit(real.style_features[train], real.styles[train])
    results: dict[str, Any] = {
        "model": _MODEL.value,
        "options": {flag.name: flag.value for flag in (*_OPTIONS, _COARSE, _SEED, _PAIRS)},
        "decoding": {name: stage.sampling.to_dict() for name, stage in _stages(pipe).items()},
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}",
        "gallery": {"pictures": len(real.images), "concepts": len(set(real.concepts.tolist()))},
        "style_of_real": {
            split: classifier.accuracy(real.style_features[chosen], real.styles[chosen])
            for split in _SPLITS[1:]
            for chosen in [real.splits == split]
        },
        "retrieval": {},
    }
    grids = []
    for split in ("train", "heldout_pairs"):
        scores, pictures, rows = _measure_split(pipe, real, classifier, split)
        results["retrieval"][split] = scores
        grids.append(np.asarray(_sample_grid(real, pictures, rows)))
    Image.fromarray(np.concatenate(grids)).save(out / "samples.png")
    if _TOKENIZERS.value:
        results["tokenizers"] = _measure_tokenizers(pipe, real)
    if _FD.value:
        results["fd"] = _measure_fd(pipe, real)
    results["seconds"] = round(time.time() - started, 1)
    (out / "quality.json").write_text(json.dumps(results, indent=1) + "\n")
    _say(_table(results))
    _say(f"Written: {out / 'quality.json'}, and {out / 'samples.png'} (left real, right generated).")


if __name__ == "__main__":
    apps.run(main)
