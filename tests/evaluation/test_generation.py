"""The evaluator of generated images, with a feature network of a few weights."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from muse_jax.data import load_source
from muse_jax.evaluation import embedders, generation
from muse_jax.evaluation.embedders import Embedder
from muse_jax.evaluation.evaluators import Context, make_evaluator
from muse_jax.evaluation.frechet import frechet_distance
from muse_jax.evaluation.kernel_distance import kernel_distance
from muse_jax.evaluation.real_images import make_reference
from muse_jax.evaluation.reference import load_reference
from muse_jax.sharding.partitioning import make_mesh, process_rows

SIDE, DIM, SPATIAL, SAMPLES = 8, 6, 5, 37
PROJECTION = np.random.default_rng(5).normal(0, 0.01, (SIDE * SIDE * 3, DIM)).astype(np.float32)


def embed(params, images):
    features = jnp.matmul(images.reshape(len(images), -1) - 128, params, precision="highest")
    return features, features[:, :4], images.reshape(len(images), -1)[:, :SPATIAL]


TINY = Embedder(DIM, 4, SIDE, embed, lambda _: PROJECTION, SPATIAL)


class Noise:
    """A task whose samples are noise; their brightness follows the caption's number. 15 captions."""

    config = None
    fails_at = None

    def eval_loader(self, split):
        rows = process_rows(8)
        for start in (0, 8):
            if self.fails_at == start:
                raise KeyboardInterrupt
            index = np.arange(start, start + 8)[rows]
            yield {"index": index % 15, "example_mask": index < 15}

    def sample(self, params, frozen, batch, key):
        noise = jax.random.randint(key, (8, SIDE, SIDE, 3), 0, 200)
        return (noise + batch["index"][:, None, None, None]).astype(jnp.uint8)


def records(images):
    return [{"image": image, "style": f"style {place % 3}"} for place, image in enumerate(images)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(embedders.EMBEDDERS, "inception", TINY)
    monkeypatch.setattr(generation, "MIN_SAMPLES", 10)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(embedders.EMBEDDERS, "inception", TINY)
        images = np.random.default_rng(1).integers(0, 256, (29, SIDE, SIDE, 3), np.uint8)
        mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
        found = make_reference(records(images), 29, "inception", "clean", mesh, batch_size=8,
                               keep_images=3, provenance={"source": "noise", "split": "train"})  # fmt: skip
    file = tmp_path_factory.mktemp("reference") / "noise.npz"
    found.save(file)
    return file, images


def make_context(folder=None, devices=None):
    data = SimpleNamespace(source="noise", eval_split="val", data_dir="")
    config = SimpleNamespace(data=data, eval_every=0, task="noise", to_dict=lambda: {})
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices)
    return Context(Noise(), config, mesh, folder)


def options(files, **changes):
    given = {"reference": str(files[0]), "num_samples": SAMPLES, "resize": "clean"}
    return {**given, "metrics": ("fid", "sfid", "kid", "mind", "prdc", "inception_score"), **changes}


def evaluate(context, given):
    with jax.set_mesh(context.mesh):
        return make_evaluator("generation", given, context)({}, {})


def features(images):
    return (np.asarray(images, np.float64).reshape(len(images), -1) - 128.0) @ PROJECTION.astype(np.float64)


def frechet(a, b):
    return frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))


def generated():
    """The samples, one batch after the other, as the task draws them."""
    batches, count = [], 0
    for number in range(10):
        key = jax.random.fold_in(jax.random.key(0), number)
        index = (np.arange(8) + 8 * (number % 2)) % 15
        images = np.asarray(Noise().sample(None, None, {"index": index}, key))
        images = images[: 8 if number % 2 == 0 else 7][: SAMPLES - count]
        count += len(images)
        batches.append(images)
    images = np.concatenate(batches)
    assert len(images) == SAMPLES
    return images


def test_figures_are_those_of_all_features_at_once(reference):
    report = evaluate(make_context(), options(reference, bootstrap=3))
    fake, real = features(generated()), features(reference[1])
    assert report.scores["fid_clean"] == pytest.approx(frechet(fake, real), rel=1e-5)
    spatial = (x.reshape(len(x), -1)[:, :SPATIAL].astype(float) for x in (generated(), reference[1]))
    assert report.scores["sfid_clean"] == pytest.approx(frechet(*spatial), rel=1e-5)
    assert report.scores["kid_clean"] == pytest.approx(kernel_distance(fake, real), rel=1e-4)
    others = {"mind_clean", "precision_clean", "coverage_clean", "inception_score_clean"}
    assert others <= report.scores.keys()
    assert report.details["reference"]["source"] == "noise" and report.details["num_samples"] == SAMPLES
    low, high = report.details["intervals"]["fid_clean"]
    assert low < report.scores["fid_clean"] < high
    assert {name: len(images) for name, images in report.images.items()} == dict.fromkeys(
        ("random", "best", "worst"), 16
    )


def test_a_stopped_evaluation_resumes_where_it_was(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "SAVE_EVERY", 2)
    whole = evaluate(make_context(), options(reference))
    context = make_context(tmp_path)
    calls = []

    def eval_loader(split):
        calls.append(split)
        if len(calls) == 2:  # in the second pass
            raise KeyboardInterrupt
        yield from Noise().eval_loader(split)

    context.task.eval_loader = eval_loader
    with pytest.raises(KeyboardInterrupt):
        evaluate(context, options(reference))
    assert list(tmp_path.rglob("progress.npz"))
    sampled = []
    context.task.sample = lambda *arguments: sampled.append(1) or Noise().sample(*arguments)
    resumed = evaluate(context, options(reference))
    assert resumed.scores == whole.scores
    assert len(sampled) == 1  # traced once, for the batches that were left
    assert not tmp_path.exists()


def test_a_tokenizer_s_images_are_its_reconstructions(reference):
    class Tokenizer:
        def eval_loader(self, split):
            images = np.random.default_rng(3).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
            for rows in (slice(0, 8), slice(8, 16)):
                yield {"image": images[rows], "example_mask": np.arange(16)[rows] < 13}

        def reconstruct(self, params, frozen, images):
            return images / 2, None

    context = dataclasses.replace(make_context(), task=Tokenizer())
    report = evaluate(context, options(reference, metrics=("fid",), num_samples=13))
    images = next(iter(Tokenizer().eval_loader("")))["image"], list(Tokenizer().eval_loader(""))[1]["image"]
    halved = np.concatenate(images)[:13] / 127.5 / 2 - 0.5
    expected = frechet(features(np.round(halved * 127.5 + 127.5)), features(reference[1]))
    assert report.scores == {"rfid_clean": pytest.approx(expected, rel=1e-4)}


def test_fid_k_compares_blurred_images_with_blurred_ones(reference, tmp_path):
    context = make_context(devices=jax.devices()[:1])
    blurred = make_reference(records(reference[1]), 29, "inception", "clean", context.mesh, blur=2)
    blurred.save(tmp_path / "blurred.npz")
    given = options((tmp_path / "blurred.npz",), metrics=("fid",), blur=2)
    blur = lambda x: ndimage.gaussian_filter(x.astype(float), 2**0.5, radius=2, mode="mirror", axes=(1, 2))  # noqa: E731
    expected = frechet(features(blur(generated())), features(blur(reference[1])))
    assert evaluate(context, given).scores == {"fid_clean_blur2": pytest.approx(expected, rel=1e-4)}
    with pytest.raises(ValueError, match="made with blur 2, but 0 is evaluated"):
        make_evaluator("generation", {**given, "blur": 0}, context)


def test_memory_on_the_devices_does_not_grow(reference):
    context, sizes = make_context(), []
    draw = context.task.eval_loader

    def eval_loader(split):
        for batch in draw(split):
            sizes.append(sum(array.nbytes for array in jax.live_arrays()))
            yield batch

    context.task.eval_loader = eval_loader
    evaluate(context, options(reference, metrics=("fid", "inception_score"), num_samples=600))
    assert len(sizes) >= 75 and len(set(sizes[3:])) == 1


def test_each_group_has_a_figure_unless_its_samples_are_too_few(reference, tmp_path, monkeypatch):
    context = make_context(tmp_path, jax.devices()[:1])
    styles = [f"style {min(place // 4, 2)}" for place in range(15)]  # 4, 4 and 7 of 15 captions
    monkeypatch.setattr(generation, "MIN_SAMPLES", 12)
    monkeypatch.setattr(generation, "load_source", lambda *_: [{"style": style} for style in styles])
    found = make_reference(
        records(reference[1]), 29, "inception", "clean", context.mesh, batch_size=8, per="style"
    )
    found.save(tmp_path / "groups.npz")
    given = options((tmp_path / "groups.npz",), metrics=("fid",), per="style")
    report = evaluate(context, given)
    place = np.concatenate([np.arange(15), np.arange(15), np.arange(7)])
    drawn, real = features(generated()), features(reference[1])
    assert report.scores == {
        "fid_clean": pytest.approx(frechet(drawn, real), rel=1e-5),
        "fid_clean/style 0": pytest.approx(frechet(drawn[place < 4], real[::3]), rel=1e-4),
        "fid_clean/style 2": pytest.approx(frechet(drawn[place >= 8], real[2::3]), rel=1e-4),
    }
    assert report.details["groups"] == {
        "per": "style",
        "num_samples": {"style 0": 12, "style 1": 11, "style 2": 14},
        "too_few_samples": ["style 1"],
    }


def test_groups_need_a_field_of_few_values(reference):
    mesh, images = make_context().mesh, reference[1]
    with pytest.raises(ValueError, match="no field 'class' to make groups by: they have image, style"):
        make_reference(records(images), 29, "inception", "clean", mesh, per="class")


MISTAKES = [
    (
        {"metrics": ("fidd",)},
        "metrics' is .*fidd.*must be some of fid, sfid, kid, mind, prdc, inception_score",
    ),
    ({"num_samples": 9}, "num_samples' is 9, but it must be at least 10"),
    ({"resize": "lanczos"}, "resize' is 'lanczos', but it must be one of tf1, clean, none"),
    ({"resize": "tf1"}, "made with resize 'clean', but 'tf1' is evaluated"),
    ({"resize": "none"}, "resize' is 'none', but it must be tf1 or clean, since sfid"),
    ({"blur": 4}, "made with blur 0, but 4 is evaluated"),
    ({"per": "style"}, "has no statistics for each style: make it with .* --per=style"),
    ({"per": "style", "metrics": ("kid",)}, "per' is 'style', but it must be '', since metrics lacks fid"),
    ({"blur": -1}, "blur' is -1, but it must be 0, or a radius in pixels"),
    ({"reference_source": "emoji"}, "made with source 'noise', but 'emoji' is evaluated"),
    ({"reference": "nowhere.npz"}, "reference statistics nowhere.npz cannot be read"),
    ({"network": "resnet"}, "network' is 'resnet', but it must be one of"),
    ({"bootstrap": 1}, "bootstrap' is 1, but it must be 0, or at least 2"),
]


@pytest.mark.parametrize("changes, message", MISTAKES)
def test_mistakes_are_refused_before_anything_runs(reference, changes, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator("generation", options(reference, **changes), make_context())


def test_statistics_of_others_are_read_and_refused_without_a_word_of_their_making(reference, tmp_path):
    with np.load(reference[0]) as stored:
        mu, sigma = stored["mu"], stored["sigma"]
    plain, adm, cut = tmp_path / "plain.npz", tmp_path / "adm.npz", tmp_path / "cut.npz"
    np.savez(plain, mu=mu, sigma=sigma)
    np.savez(adm, mu=mu, sigma=sigma, mu_s=mu[1:], sigma_s=sigma[1:, 1:], arr_0=reference[1])
    cut.write_bytes(plain.read_bytes()[:200])
    with pytest.raises(ValueError, match="Nothing says how .*plain.npz was made"):
        load_reference(plain, "inception", DIM, "tf1", "noise")
    (tmp_path / "plain.npz.json").write_text(json.dumps({"network": "inception", "resize": "tf1"}))
    for file in (plain, adm):
        found = load_reference(file, "inception", DIM, "tf1", "noise")
        np.testing.assert_array_equal(found.covariance, sigma)
        with pytest.raises(ValueError, match="made with resize 'tf1'"):
            load_reference(file, "inception", DIM, "clean", "noise")
    with pytest.raises(ValueError, match="cannot be read"):
        load_reference(cut, "inception", DIM, "tf1", "noise")
    with pytest.raises(ValueError, match="statistics of 6 features, but inception has 2048"):
        load_reference(adm, "inception", 2048, "tf1", "noise")
    with pytest.raises(ValueError, match="has no features, which kid needs"):
        make_evaluator("kid", options((adm,), metrics=("kid",), resize="tf1"), make_context())


def test_written_statistics_have_all_arrays_of_adm(reference):
    with np.load(reference[0]) as stored:
        pixels = reference[1].reshape(29, -1)[:, :SPATIAL].astype(float)
        np.testing.assert_allclose(stored["mu_s"], pixels.mean(0), rtol=1e-6)
        np.testing.assert_allclose(stored["sigma_s"], np.cov(pixels.T), rtol=1e-6)
        np.testing.assert_array_equal(stored["arr_0"], reference[1][:3])
    np.testing.assert_array_equal(load_source(f"npz:{reference[0]}", "train")[2]["image"], reference[1][2])


SCRIPT = """
import sys
import jax
if len(sys.argv) > 4:
    jax.distributed.initialize(sys.argv[4], 2, int(sys.argv[5]))
from tests.evaluation import test_generation as tests
tests.embedders.EMBEDDERS["inception"] = tests.TINY
tests.generation.MIN_SAMPLES = 10
report = tests.evaluate(tests.make_context(), tests.options((sys.argv[1],)))
if jax.process_index() == 0:
    print("SCORES", tests.json.dumps(report.scores))
"""


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.evaluation import test_generation as tests
tests.embedders.EMBEDDERS["inception"] = tests.TINY
tests.generation.MIN_SAMPLES = 10
tests.generation.SAVE_EVERY = 2
context, passes = tests.make_context(Path(sys.argv[2])), []
draw = context.task.eval_loader
def eval_loader(split):
    passes.append(split)
    if len(passes) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(split)
context.task.eval_loader = eval_loader
tests.evaluate(context, tests.options((sys.argv[1],)))
"""


def test_a_killed_evaluation_gives_the_same_figures(reference, tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", KILLED, str(reference[0]), str(tmp_path / "kept")]
    assert subprocess.run(arguments, env={**os.environ, **flags}).returncode == -signal.SIGKILL
    assert list((tmp_path / "kept").rglob("progress.npz"))
    resumed = evaluate(make_context(tmp_path / "kept"), options(reference))
    assert resumed.scores == pytest.approx(evaluate(make_context(), options(reference)).scores, rel=1e-6)
    assert not (tmp_path / "kept").exists()


def run(reference, devices, *more):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", SCRIPT, str(reference[0]), "-", "-", *more]
    return subprocess.Popen(
        arguments, env={**os.environ, **flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def scores(process):
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return next((json.loads(line[7:]) for line in out.splitlines() if line.startswith("SCORES")), None)


def test_figures_do_not_depend_on_devices_or_processes(reference):
    alone = evaluate(make_context(devices=jax.devices()[:1]), options(reference)).scores
    processes = [run(reference, 1, "localhost:12431", str(index)) for index in (0, 1)]
    runs = [run(reference, 2), run(reference, 8)]
    found = [scores(process) for process in runs] + [[scores(process) for process in processes][0]]
    for other in found:
        assert other == pytest.approx(alone, rel=1e-6)
