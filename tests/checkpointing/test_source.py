import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.checkpointing.pretrained import parameter_shapes
from muse_jax.checkpointing.source import is_checkpoint, tokenizer_module, tokenizer_params, trained_params
from muse_jax.sharding.partitioning import RULES, make_mesh
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.runs import load_runs
from tests.systems.conftest import pictures, save_untrained, tokenizer  # noqa: F401
from tests.systems.muse.test_tasks import base_config, superres_config
from tests.systems.test_features import retrain


def same(tree, other, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), tree, other)


@pytest.fixture(scope="module")
def runs(pictures, tokenizer, tmp_path_factory):  # noqa: F811
    """Workdirs of a base and a superres run, and their weights."""
    folder = tmp_path_factory.mktemp("stages")
    base = base_config(pictures, tokenizer)
    base.model = {**base.model.to_dict(), "grid": (2, 2)}
    base.data.image_size = 16
    weights = {
        "base": save_untrained(base, folder / "base"),
        "superres": save_untrained(superres_config(pictures, tokenizer), folder / "superres"),
    }
    return folder, weights


@pytest.fixture(scope="module")
def checkpoint(runs, tmp_path_factory):
    """The two runs as a pipeline's checkpoint."""
    folder, _ = runs
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    load_runs(str(folder / "base"), str(folder / "superres")).save_pretrained(directory)
    return str(directory)


def test_a_pipeline_of_runs_has_their_weights_and_survives_its_checkpoint(runs, checkpoint):
    _, weights = runs
    pipe = MusePipeline.from_pretrained(checkpoint)
    assert pipe.image_size == (32, 32)
    for name, stage in (("base", pipe.base), ("superres", pipe.superres)):
        same(stage.params, weights[name], atol=2e-3)  # stored as float16
    images = pipe.generate(["a red heart"], num_steps=1, superres_steps=1)
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8


def test_runs_go_together_by_the_content_of_their_tokenizers(runs, tokenizer, tmp_path):  # noqa: F811
    folder, _ = runs
    moved = shutil.copytree(tokenizer, tmp_path / "moved")
    superres = shutil.copytree(folder / "superres", tmp_path / "superres")
    config = json.loads((superres / "config.json").read_text())
    (superres / "config.json").write_text(json.dumps({**config, "tokenizer": str(moved)}))
    assert load_runs(str(folder / "base"), str(superres)).image_size == (32, 32)
    retrain(moved, "encoder")
    with pytest.raises(ValueError, match="was trained with tokenizer .* give runs that were trained"):
        load_runs(str(folder / "base"), str(superres))


def test_a_checkpoint_serves_where_a_workdir_does(runs, checkpoint, tokenizer):  # noqa: F811
    _, weights = runs
    assert is_checkpoint(checkpoint) and not is_checkpoint(tokenizer)
    for key in ("tokenizer", "superres_tokenizer"):
        assert tokenizer_module(key, checkpoint) == tokenizer_module(key, tokenizer)
        same(tokenizer_params(key, checkpoint), tokenizer_params(key, tokenizer), atol=2e-3)
    for task in ("base", "superres"):
        same(trained_params(task, checkpoint), weights[task], atol=2e-3)


def test_a_checkpoint_is_read_under_the_mesh_that_the_loop_sets(runs, checkpoint):
    _, weights = runs
    parameter_shapes.cache_clear()
    with jax.set_mesh(make_mesh({"data": -1, "fsdp": 1, "tensor": 1})), nn.logical_axis_rules(RULES):
        same(trained_params("base", checkpoint), weights["base"], atol=2e-3)


def test_a_checkpoint_without_the_stage_is_refused_in_one_sentence(runs, tmp_path):
    folder, _ = runs
    load_runs(str(folder / "base")).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="has no superres stage: give one that has"):
        tokenizer_module("superres_tokenizer", str(tmp_path / "small"))


@pytest.mark.parametrize("task", ["coglm", "direct_superres", "iterative_superres"])
def test_every_network_of_a_cogview2_checkpoint_can_be_trained_on(task):
    pipe = CogView2Pipeline.from_pretrained("emoji-cogview2")
    stage = {"coglm": "coarse", "direct_superres": "direct", "iterative_superres": "iterative"}[task]
    given = trained_params(task, "emoji-cogview2")
    for (path, weight), (name, other) in zip(
        jax.tree_util.tree_leaves_with_path(given),
        jax.tree_util.tree_leaves_with_path(getattr(pipe, stage).params),
        strict=True,
    ):
        assert path == name
        np.testing.assert_array_equal(weight, other)
