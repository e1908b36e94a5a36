"""Evaluators of tiny tasks: what a config may name, and scores against direct computations."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax.evaluation import Report
from muse_jax.evaluation.embedders import EMBEDDERS, Embedder
from muse_jax.evaluation.evaluators import Context, Evaluator, make_evaluators
from muse_jax.evaluation.image_quality import psnr, ssim
from muse_jax.evaluation.kernel_distance import kernel_distance
from muse_jax.evaluation.real_images import make_reference
from muse_jax.evaluation.samples import generate_images, jit_sample
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sharding.partitioning import make_mesh, one_device_mesh, put_tree, replicated
from muse_jax.system import make_task
from muse_jax.training import train, validate_config
from muse_jax.training.evaluate import put_frozen
from tests.systems.conftest import MODEL, tiny_config
from tests.systems.muse.test_tasks import BASE
from tests.systems.probing import random_params

EXAMPLES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 7 noisy images in the split "val"."""
    folder = tmp_path_factory.mktemp("val")
    rng, lines = np.random.default_rng(0), []
    for i in range(EXAMPLES):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file": f"{i}.png", "caption": f"noise number {i}", "split": "val"}))
    lines.append(json.dumps({"file": "0.png", "caption": "noise"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def make_config(task, folder, evaluators, tokenizer=""):
    config = tiny_config(task, folder)
    config.data.eval_split = "val"
    config.eval_batches = 0
    config.evaluators = evaluators
    config.model = BASE if task == "base" else MODEL
    config.loss = {} if task == "base" else {"perceptual": 0.0, "adversarial": 0.0}
    if task == "base":
        config.tokenizer = tokenizer
    return validate_config(config)


class Constant(Evaluator):
    """A user's evaluator."""

    defaults = {"value": 1.0}

    def __call__(self, params, frozen):
        return Report({"value": self.options["value"]}, images={"grey": np.full((1, 8, 8, 3), 99, np.uint8)})


CONSTANT = f"{__name__}.Constant"
MISTAKES = [
    ({"xyz": {}}, "no evaluator type 'xyz': use one of loss, reconstruction"),
    ({"retreival": {}}, "no evaluator type 'retreival': use 'retrieval'"),
    ({"mine": {"type": "nowhere.Mine"}}, "evaluator 'nowhere.Mine' of 'evaluators.mine' is not found"),
    (
        {"loss": {"splt": "val"}},
        "Unknown config key 'evaluators.loss.splt': did you mean evaluators.loss.split",
    ),
    ({"loss": {"every": -1}}, "'evaluators.loss.every' is -1, but it must be at least 0"),
    (
        {"mine": {"type": CONSTANT, "value": "x"}},
        r"'evaluators.mine.value' is 'x' \(str\), but it must be of type float",
    ),
    ({"loss": 3}, "'evaluators.loss' is 3, but it must be a section"),
    ({"retrieval": {}}, "measures generated images, but the task 'vqgan' generates none"),
    ({"reconstruction": {"lpips": ("vgg", "resnet")}}, "lpips' is .* but it must be some of vgg, alex"),
    ({"iconeval": {}}, "measures generated images, but the task 'vqgan' generates none"),
]


@pytest.mark.parametrize("evaluators, message", MISTAKES)
def test_mistakes_are_refused_before_anything_runs(folder, tmp_path, evaluators, message):
    config = make_config("vqgan", folder, evaluators)
    with pytest.raises(ValueError, match=message):
        train(config, make_task(config), tmp_path)
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())


def test_the_loop_runs_each_evaluator_at_its_own_steps(folder, tmp_path):
    evaluators = {"loss": {}, "often": {"type": CONSTANT, "every": 1, "value": 3}, "end": {"type": CONSTANT}}
    evaluators["end"]["every"] = 0
    config = make_config("vqgan", folder, evaluators)
    with config.unlocked():
        config.update(total_steps=3, eval_every=2)
    train(config, make_task(config), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {kind: [row["step"] for row in rows if row["kind"] == kind] for kind in {r["kind"] for r in rows}}
    assert steps["eval"] == [2, 3] and steps["eval/often"] == [1, 2, 3] and steps["eval/end"] == [3]
    assert [row["value"] for row in rows if row["kind"] == "eval/often"] == [3.0] * 3
    assert [row["examples"] for row in rows if row["kind"] == "eval"] == [EXAMPLES] * 2
    assert (tmp_path / "previews/end_grey_0000003.png").exists()


def test_reconstruction_equals_a_loop_over_the_images(folder):
    config = make_config("vqgan", folder, {"reconstruction": {"lpips": ()}})
    task, mesh = make_task(config), make_mesh(config.mesh)
    params = random_params(task.init)
    with jax.set_mesh(mesh):
        (evaluator,) = make_evaluators(Context(task, config, mesh))
        params = put_tree(params, jax.tree.map(lambda _: replicated(mesh), params))
        report = evaluator(params, put_frozen(task, mesh))
    similarities, distances, codes = [], [], []
    for i in range(EXAMPLES):
        image = np.asarray(Image.open(folder / f"{i}.png"))[None]
        rebuilt, quantized = task.reconstruct(params, {"generator": {}}, to_unit_range(image))
        rebuilt = from_unit_range(rebuilt)
        distances.append(psnr(rebuilt, image)[0])
        similarities.append(ssim(rebuilt, image)[0])
        codes += np.asarray(quantized.ids).ravel().tolist()
    frequency = np.bincount(codes) / len(codes)
    perplexity = np.exp(-sum(f * np.log(f) for f in frequency if f))
    assert report.details["examples"] == EXAMPLES
    expected = {"psnr": np.mean(distances), "ssim": np.mean(similarities), "code_perplexity": perplexity}
    expected["code_usage"] = len(set(codes)) / MODEL["codebook_size"]
    assert report.scores == pytest.approx(expected, rel=1e-4)


def test_generated_images_follow_captions_in_order_and_do_not_depend_on_how_many(folder, tokenizer):
    config = make_config("base", folder, {}, tokenizer)
    task, mesh = make_task(config), make_mesh(config.mesh)
    context = Context(task, config, mesh)
    params = random_params(task.init)
    with jax.set_mesh(mesh):
        frozen, sample = put_frozen(task, mesh), jit_sample(context)
        draw = lambda count: list(generate_images(sample, context, params, frozen, "val", count, 0))  # noqa: E731
        few, all_ = draw(5), draw(100)
    assert [len(index) for index, _ in few] == [4, 1] and [len(images) for _, images in all_] == [4, 3]
    order = np.concatenate([batch["index"] for batch in itertools.islice(task.eval_loader("val"), 2)])
    np.testing.assert_array_equal(np.concatenate([index for index, _ in all_]), order[:EXAMPLES])
    np.testing.assert_array_equal(few[1][1], all_[1][1][:1])
    assert few[0][1].shape == (4, 32, 32, 3) and few[0][1].dtype == np.uint8
    assert (all_[0][1][0] != all_[0][1][1]).any()


def test_images_of_a_task_are_generated_and_embedded_in_one_program(folder, tokenizer, tmp_path, monkeypatch):
    projection = np.random.default_rng(0).normal(0, 0.01, (32 * 32 * 3, 6)).astype(np.float32)

    def embed(params, images):
        return images.reshape(len(images), -1) @ params, jnp.zeros((len(images), 1))

    monkeypatch.setitem(EMBEDDERS, "inception", Embedder(6, 1, 32, embed, lambda _: projection))
    real = [np.asarray(Image.open(folder / f"{i}.png")) for i in range(EXAMPLES)]
    noted = {"source": f"folder:{folder}"}
    records = [{"image": image} for image in real]
    reference = make_reference(
        records, EXAMPLES, "inception", "none", one_device_mesh(), batch_size=4, provenance=noted
    )
    reference.save(tmp_path / "reference.npz")
    options = {"reference": str(tmp_path / "reference.npz"), "num_samples": 10, "resize": "none"}
    config = make_config("base", folder, {"kid": options}, tokenizer)
    task, mesh = make_task(config), make_mesh(config.mesh)
    context = Context(task, config, mesh)
    params = random_params(task.init)
    with jax.set_mesh(mesh):
        frozen = put_frozen(task, mesh)
        (evaluator,) = make_evaluators(context)
        report = evaluator(params, frozen)
        # The split has 7 captions: 4 and 3 in the first pass, and 3 more of the second.
        sample, images = jit_sample(context), []
        batches = [*task.eval_loader("val"), *task.eval_loader("val")]
        for number, count in enumerate((4, 3, 3)):
            key = jax.random.fold_in(jax.random.key(0), number)
            images.append(np.asarray(sample(params, frozen, batches[number], key))[:count])
    features = np.concatenate(images).reshape(10, -1).astype(np.float64) @ projection
    assert report.scores == {
        "kid_none": pytest.approx(kernel_distance(features, reference.features), rel=1e-3)
    }
    assert report.images["random"].shape == (10, 32, 32, 3)
