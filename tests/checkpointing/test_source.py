import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.checkpointing.source import open_source
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.sharding.partitioning import RULES, make_mesh
from muse_jax.systems.base import load_pipeline
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.training import validate_config
from tests.systems.conftest import image_folder, save_untrained, tokenizer  # noqa: F401
from tests.systems.muse.test_tasks import base_config, superres_config
from tests.systems.test_features import retrain


def same(tree, other, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), tree, other)


@pytest.fixture(scope="module")
def runs(image_folder, tokenizer, tmp_path_factory):  # noqa: F811
    """Workdirs of a base and a superres run, and their weights."""
    folder = tmp_path_factory.mktemp("stages")
    base = base_config(image_folder, tokenizer)
    base.model = {**base.model.to_dict(), "grid": (2, 2)}
    base.data.image_size = 16
    weights = {
        "base": save_untrained(base, folder / "base"),
        "superres": save_untrained(superres_config(image_folder, tokenizer), folder / "superres"),
    }
    return folder, weights


def load_runs(base, superres="", **options):
    """The pipeline of two runs."""
    sources = {"base": open_source(base)} | ({"superres": open_source(superres)} if superres else {})
    return MusePipeline.from_sources(sources, **options)


@pytest.fixture(scope="module")
def checkpoint(runs, tmp_path_factory):
    """The two runs as a pretrained directory."""
    folder, _ = runs
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    load_runs(folder / "base", folder / "superres").save_pretrained(directory)
    return str(directory)


def test_a_pipeline_of_runs_has_their_weights_and_survives_its_checkpoint(runs, checkpoint):
    _, weights = runs
    pipe = MusePipeline.from_pretrained(checkpoint)
    assert pipe.image_size == (32, 32)
    for name, stage in (("base", pipe.base), ("superres", pipe.superres)):
        same(stage.params, weights[name], atol=2e-3)  # stored as float16
    images = pipe.generate(["a red heart"], num_steps=1, superres_num_steps=1)
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8


def test_a_run_is_loaded_as_a_pipeline_of_one_stage(runs):
    folder, weights = runs
    pipe = load_pipeline(folder / "base")
    assert pipe.superres is None
    same(pipe.base.params, weights["base"])


def test_runs_go_together_by_the_content_of_their_tokenizers(runs, tokenizer, tmp_path):  # noqa: F811
    folder, _ = runs
    moved = shutil.copytree(tokenizer, tmp_path / "moved")
    superres = shutil.copytree(folder / "superres", tmp_path / "superres")
    config = json.loads((superres / "train_config.json").read_text())
    (superres / "train_config.json").write_text(json.dumps({**config, "tokenizer": str(moved)}))
    assert load_runs(folder / "base", superres).image_size == (32, 32)
    retrain(moved, "encoder")
    with pytest.raises(ValueError, match="was trained with another tokenizer .* give runs that were trained"):
        load_runs(folder / "base", superres)


def test_a_tokenizer_with_another_decoder_takes_the_place_of_a_run_s(runs, tokenizer, tmp_path):  # noqa: F811
    folder, _ = runs
    other = shutil.copytree(tokenizer, tmp_path / "other")
    retrain(other, "decoder")
    pipe = load_runs(folder / "base", tokenizers={"tokenizer": str(other)})
    same(pipe.base.tokenizer_params, open_source(other).tokenizer().params)
    with pytest.raises(ValueError, match="'superres_tokenizer' is given, but no stage of this pipeline"):
        load_runs(folder / "base", tokenizers={"superres_tokenizer": str(other)})


def test_a_checkpoint_serves_where_a_workdir_does(runs, checkpoint, tokenizer):  # noqa: F811
    folder, weights = runs
    for key in ("tokenizer", "superres_tokenizer"):
        stored, trained = (open_source(name).tokenizer(key) for name in (checkpoint, tokenizer))
        assert stored.module == trained.module
        same(stored.params, trained.params, atol=2e-3)
    for stage in ("base", "superres"):
        same(open_source(checkpoint).network(stage).params, weights[stage], atol=2e-3)
        assert open_source(folder / stage).stages == (stage,)


def test_a_checkpoint_is_read_under_the_mesh_that_the_loop_sets(runs, checkpoint):
    _, weights = runs
    parameter_shapes.cache_clear()
    with jax.set_mesh(make_mesh({"data": -1, "fsdp": 1, "tensor": 1})), nn.logical_axis_rules(RULES):
        same(open_source(checkpoint).network("base").params, weights["base"], atol=2e-3)


def test_a_checkpoint_without_the_stage_is_refused_in_one_sentence(runs, tmp_path):
    folder, _ = runs
    load_runs(folder / "base").save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="has no superres stage: give one that does"):
        open_source(tmp_path / "small").tokenizer("superres_tokenizer")


def test_a_place_without_weights_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"config.tokenizer is '.*', which is not a run or a checkpoint: give the"
    ):
        open_source(tmp_path, "config.tokenizer")
    with pytest.raises(ValueError, match="is a directory without config.json"):
        open_source(tmp_path)


def test_a_workdir_of_an_earlier_version_is_read(runs, tmp_path):
    """It has config.json, no system, a section `decoding`, and keys that only other tasks read."""
    folder, weights = runs
    earlier = shutil.copytree(folder / "base", tmp_path / "earlier")
    config = json.loads((earlier / "train_config.json").read_text())
    (earlier / "train_config.json").unlink()
    config["decoding"] = {**config.pop("sampling"), "num_steps": 7}
    del config["system"]
    config |= {"discriminator": {}, "coglm": "", "sampling": {"text_weight": 1.0, "keep": 1}}
    (earlier / "config.json").write_text(json.dumps(config))
    source = open_source(earlier)
    same(source.network("base").params, weights["base"])
    assert source.sampling("base").num_steps == 7
    validate_config(source.config)


@pytest.mark.parametrize("stage", ["coarse", "direct", "iterative"])
def test_every_network_of_a_cogview2_checkpoint_can_be_trained_on(stage):
    pipe = CogView2Pipeline.from_pretrained("emoji-cogview2")
    same(open_source("emoji-cogview2").network(stage).params, getattr(pipe, stage).params)
