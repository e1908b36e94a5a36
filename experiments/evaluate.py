"""Evaluates a trained run or a pretrained model and writes one JSON.

    python -m experiments.evaluate --workdir=runs/base [--split=heldout_concepts] [--out=scores.json]
    python -m experiments.evaluate --workdir=runs/base --metrics=fid,kid --samples=30000 --reference=coco.npz
    python -m experiments.evaluate --model=emoji --source=emoji --evaluators=retrieval --split=heldout_pairs
    python -m experiments.evaluate --model=emoji --tokenizer=tokenizer --config=configs/emoji/vqgan64.py \
        --evaluators=reconstruction
    python -m experiments.evaluate --model=motion --stage=base --config=configs/motion/nuwa.py \
        --evaluators=motioneval,prediction

The first form runs the evaluators of the run's config on its averaged weights. --metrics measures generated
images against statistics that experiments.prepare_reference wrote; a stopped command resumes when it is run
again. --evaluators runs evaluators by name, with the keys of --options and of the config. --tokenizer
measures one of the model's tokenizers instead, on images of config.data.image_size, and --stage one of its
networks, by the evaluators that its training has.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from experiments import apps
from muse_jax.sharding import distributed
from muse_jax.training import (
    default_config,
    evaluate_params,
    evaluate_run,
    load_config,
    stage_config,
    validate_config,
)

WORKDIR = flags.DEFINE_string(
    "workdir", "", "The workdir of a run; its config is used unless --config is given."
)
MODEL = flags.DEFINE_string(
    "model", "", "Instead of --workdir: a packaged checkpoint, or a pretrained directory."
)
SOURCE = flags.DEFINE_string("source", "", "Data source of the captions, instead of config.data.source.")
SPLIT = flags.DEFINE_string("split", "", "Instead of config.data.eval_split.")
BATCHES = flags.DEFINE_integer("batches", 0, "Maximum number of batches for the loss; 0: all.", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Instead of config.data.batch_size.", lower_bound=1)
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
EVALUATORS = flags.DEFINE_list("evaluators", [], "Names of evaluators; by default all of the config.")
OPTIONS = flags.DEFINE_string("options", "", "Keys of the --evaluators, such as clips=98,seed=1.")
METRICS = flags.DEFINE_list("metrics", [], "Any of fid, sfid, kid, mind, prdc, inception_score, cmmd.")
SAMPLES = flags.DEFINE_integer("samples", 30_000, "Images generated for --metrics.", lower_bound=2)
REFERENCE = flags.DEFINE_string("reference", "", "Statistics of real images for --metrics.")
NETWORK = flags.DEFINE_enum(
    "network", "inception", ["inception", "efficientnet_lite0", "clip"], "For --metrics."
)
WEIGHTS = flags.DEFINE_string(
    "weights", "", "File with the network's weights; by default its usual location."
)
RESIZE = flags.DEFINE_enum(
    "resize", "clean", ["tf1", "clean", "none"], "How images are resized for --network."
)
BLUR = flags.DEFINE_integer(
    "blur", 0, "Radius in pixels of the Gaussian filter of FID-k; 0: none.", lower_bound=0
)
BOOTSTRAP = flags.DEFINE_integer("bootstrap", 0, "Resamples for 95 % intervals of --metrics.", lower_bound=0)
PER = flags.DEFINE_string(
    "per", "", "Field of the records, such as style, for the FID of each of its values."
)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "For --model: measure its tokenizer of this config key, such as superres_tokenizer."
)
STAGE = flags.DEFINE_string(
    "stage", "", "For --model: measure its network of this stage, such as base, as the task of --config does."
)
SAMPLING = flags.DEFINE_string(
    "sampling", "", "For --model: parameters such as guidance_scale=3,num_steps=8."
)
MESH = flags.DEFINE_string("mesh", "", "For --model: devices along each axis, such as data=4.")
OUT = flags.DEFINE_string("out", "", "JSON file to write; WORKDIR/scores_SPLIT.json by default.")


def main() -> None:
    """Checks the flags, evaluates and writes."""
    if bool(WORKDIR.value) == bool(MODEL.value):
        raise ValueError("Give either --workdir=DIR, the workdir of a run, or --model=NAME.")
    if MODEL.value and not OUT.value:
        raise ValueError("Give --out=FILE.json, the file to write.")
    distributed.initialize()
    if WORKDIR.value:
        result, images = evaluate_workdir()
    elif TOKENIZER.value:
        result, images = evaluate_tokenizer()
    else:
        result, images = evaluate_stage() if STAGE.value else evaluate_model()
    if jax.process_index():
        return
    out = Path(OUT.value or Path(WORKDIR.value) / f"scores_{result['split']}.json")
    write(out, result, images)
    if "scores" in result:
        print(json.dumps(result["scores"]))
    for name, report in result.get("evaluators", {}).items():
        print(name, json.dumps(report["scores"]))
    print(f"Written to {out}")


def evaluate_workdir() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the images of the run's evaluation."""
    config = completed((flags.FLAGS.config or load_config(WORKDIR.value)).to_dict())
    from muse_jax.system import make_task

    return evaluate_run(config, make_task(config), WORKDIR.value, STEP.value)


def evaluate_model() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the images of a pretrained model's evaluation."""
    from muse_jax.evaluation.evaluators import Context, make_evaluators
    from muse_jax.evaluation.pipeline_task import PipelineTask
    from muse_jax.sharding.partitioning import one_device_mesh
    from muse_jax.systems.base import load_pipeline
    from muse_jax.training.evaluate import run_evaluators

    mesh = apps.parse_mesh(MESH.value) or one_device_mesh()
    pipeline = load_pipeline(MODEL.value, mesh=mesh)
    system = pipeline.system()
    given = flags.FLAGS.config or default_config(system.name, next(iter(system.tasks)))
    given = given.to_dict()
    given["data"]["image_size"] = pipeline.image_size[0]
    config = completed(given)
    if not config.evaluators:
        raise ValueError("Give --metrics or --evaluators, the measures to compute for --model.")
    sampling = apps.parse_options(SAMPLING.value)
    task = PipelineTask(pipeline, config, **sampling)
    folder = Path(OUT.value).with_suffix(".partial")
    evaluators = make_evaluators(Context(task, config, mesh, folder, {"model": MODEL.value, **sampling}))
    with jax.set_mesh(mesh):
        reports, images = run_evaluators(evaluators, None, None)
    return {"model": MODEL.value, "sampling": sampling, "split": config.data.eval_split, **reports}, images


def evaluate_tokenizer() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the images of the evaluation of a pretrained model's tokenizer."""
    from muse_jax.checkpointing.source import open_source
    from muse_jax.evaluation.evaluators import Context, make_evaluators
    from muse_jax.evaluation.pipeline_task import TokenizerTask
    from muse_jax.sharding.partitioning import one_device_mesh, put_tree, replicated
    from muse_jax.training.evaluate import run_evaluators

    if not flags.FLAGS.config:
        raise ValueError("Give --config=FILE, the config of the tokenizer's training, for its data.")
    mesh = apps.parse_mesh(MESH.value) or one_device_mesh()
    tokenizer = open_source(MODEL.value, "--model").tokenizer(TOKENIZER.value)
    config = completed(flags.FLAGS.config.to_dict())
    named = {"model": MODEL.value, "tokenizer": TOKENIZER.value}
    folder = Path(OUT.value).with_suffix(".partial")
    context = Context(TokenizerTask(tokenizer.module, config), config, mesh, folder, named)
    evaluators = make_evaluators(context)
    with jax.set_mesh(mesh):
        params = put_tree(tokenizer.params, jax.tree.map(lambda _: replicated(mesh), tokenizer.params))
        reports, images = run_evaluators(evaluators, params, None)
    return {**named, "split": config.data.eval_split, **reports}, images


def evaluate_stage() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the images of the evaluation of a pretrained model's network."""
    from muse_jax.checkpointing.source import open_source
    from muse_jax.system import make_task

    if not flags.FLAGS.config:
        raise ValueError("Give --config=FILE, the config of the network's training, for its task and data.")
    if MESH.value:
        raise ValueError(
            f"--mesh={MESH.value} has no effect on --stage, whose mesh is that of the config: give "
            "--config.mesh.data=4 and the like."
        )
    source = open_source(MODEL.value, "--model")
    given = stage_config(source, STAGE.value, flags.FLAGS.config.to_dict())
    given["sampling"] |= apps.parse_options(SAMPLING.value)
    config, named = completed(given), {"model": MODEL.value, "stage": STAGE.value}
    folder = Path(OUT.value).with_suffix(".partial")
    reports, images = evaluate_params(
        config, make_task(config), lambda: source.network(STAGE.value).params, folder, named
    )
    return {**named, "split": config.data.eval_split, **reports}, images


def completed(given: dict[str, Any]) -> Any:
    """The config with the values of the flags."""
    data, named = given["data"], given.get("evaluators") or {}
    data["source"] = SOURCE.value or data["source"]
    data["eval_split"] = SPLIT.value or data["eval_split"]
    data["batch_size"] = BATCH_SIZE.value or data["batch_size"]
    options = apps.parse_options(OPTIONS.value, "options")
    if options and not EVALUATORS.value:
        raise ValueError(f"--options={OPTIONS.value} belongs to --evaluators: name the evaluators too.")
    if EVALUATORS.value:
        named = {name: {**named.get(name, {}), **options} for name in EVALUATORS.value}
    if METRICS.value:
        flag_values = {"samples": SAMPLES, "reference": REFERENCE, "network": NETWORK, "weights": WEIGHTS}
        flag_values |= {"resize": RESIZE, "blur": BLUR, "bootstrap": BOOTSTRAP, "per": PER}
        options = {name: flag.value for name, flag in flag_values.items()}
        options["num_samples"] = options.pop("samples")
        named = {"generation": {"metrics": tuple(METRICS.value), **options}}
    return validate_config({**given, "evaluators": named, "eval_batches": BATCHES.value})


def write(out: Path, result: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    """Writes the JSON file and, beside it, a sheet of images for each evaluator."""
    from muse_jax.media.image import tile_images

    out.write_text(json.dumps(result, indent=1) + "\n")
    for name, sheet in images.items():
        Image.fromarray(tile_images(sheet)).save(out.with_name(f"{out.stem}_{name}.png"))


if __name__ == "__main__":
    apps.run(main)
