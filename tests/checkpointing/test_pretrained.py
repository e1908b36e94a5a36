"""Checkpoints on disk: what goes in comes out, and what is wrong with one is told in a sentence."""

import dataclasses
import errno
import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from muse_jax import MusePipeline
from muse_jax.checkpointing.pretrained import write_pretrained
from muse_jax.checkpointing.safetensors import read_weights, weights_to_bytes
from muse_jax.sampling.params import MaskedSampling
from tests.systems.muse.tiny import text_encoder, tiny_pipeline

FILES = {f"{name}.safetensors" for name in ("base", "vqgan", "superres", "vqgan_superres")}


def load(directory):
    return MusePipeline.from_pretrained(directory, text_encoder=text_encoder())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "float32"
    tiny_pipeline().save_pretrained(directory, "float32")
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def edit_config(directory, change):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


class TestOtherFiles:
    """Files of another origin in the directory that a checkpoint is written to."""

    CONFIG = {"system": "muse"}
    WEIGHTS = {"base": {"a": np.zeros(2, np.float32)}}

    @pytest.mark.parametrize(
        "stored, message",
        [
            ('{"task": "vqgan", "model": {"filters": 8}}', "is the workdir of a run: give another directory"),
            ('{"model_type": "t5"}', "has a config.json that is not a checkpoint's: give another directory"),
            ('{"task": "vq', "config.json cannot be read .* remove it, or give another directory"),
        ],
    )
    def test_a_directory_with_another_config_is_refused_and_left_as_it_was(self, tmp_path, stored, message):
        for name in ("clusters.npz", "text.model", "base.safetensors"):
            (tmp_path / name).write_text(f"its own {name}")
        (tmp_path / "config.json").write_text(stored)
        before = {path.name: path.read_text() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match=message):
            write_pretrained(tmp_path, self.CONFIG, self.WEIGHTS, "float32")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before

    def test_files_that_no_checkpoint_wrote_stay(self, tmp_path):
        (tmp_path / "text.model").write_text("its own")
        write_pretrained(tmp_path, self.CONFIG, self.WEIGHTS, "float32")
        write_pretrained(tmp_path, self.CONFIG, self.WEIGHTS, "float32")  # over a checkpoint of Muse
        assert (tmp_path / "text.model").read_text() == "its own"

    def test_another_system_s_checkpoint_is_replaced_whole(self, tmp_path):
        others = {"text.model": b"pieces", "clusters.npz": b"clusters"}
        earlier = {**self.CONFIG, "system": "cogview2"}
        write_pretrained(tmp_path, earlier, {"coglm": self.WEIGHTS["base"]}, "float32", others)
        write_pretrained(tmp_path, self.CONFIG, self.WEIGHTS, "float32")
        assert {path.name for path in tmp_path.iterdir()} == {"config.json", "base.safetensors"}


class TestRoundTrip:
    def test_everything_comes_back(self, saved):
        before, after = tiny_pipeline(), MusePipeline.from_pretrained(saved)
        assert {path.name for path in saved.iterdir()} == FILES | {"config.json"}
        assert after.text_encoder.name == "minilm" and after.text_encoder.max_length == 24
        for name in ("base", "superres"):
            old, new = getattr(before, name), getattr(after, name)
            assert (old.network, old.tokenizer, old.sampling) == (new.network, new.tokenizer, new.sampling)
            jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
            jax.tree.map(np.testing.assert_array_equal, old.tokenizer_params, new.tokenizer_params)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_stored_in_half_and_loaded_as_float32(self, tmp_path, dtype):
        sizes = tiny_pipeline().save_pretrained(tmp_path, dtype)
        assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        half = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
        stored = load_file(tmp_path / "base.safetensors")
        assert {array.dtype for array in stored.values()} == {np.dtype(half)}
        kernel = tiny_pipeline().base.params["text_projection"]
        loaded = load(tmp_path).base.params["text_projection"]
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(half), b), kernel, loaded)
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}

    def test_base_alone_replaces_a_cascade_and_leaves_other_files(self, copy):
        (copy / "README.md").write_text("by hand")
        dataclasses.replace(tiny_pipeline(), superres=None).save_pretrained(copy)
        names = {"base.safetensors", "vqgan.safetensors", "config.json", "README.md"}
        assert {path.name for path in copy.iterdir()} == names
        assert (copy / "README.md").read_text() == "by hand"
        assert load(copy).superres is None

    def test_a_value_that_float16_cannot_hold_is_refused(self):
        with pytest.raises(ValueError, match="'a/b' reach 100000, which float16 cannot hold"):
            weights_to_bytes({"a": {"b": np.float32([1, 1e5])}})
        with pytest.raises(ValueError, match="stored as float16, bfloat16, float32, not as 'int8'"):
            weights_to_bytes({"a": np.float32([1])}, "int8")

    def test_a_scalar_keeps_its_shape(self, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(weights_to_bytes({"a": np.float32(3)}))
        assert read_weights(tmp_path / "a.safetensors", {"a": np.float32(0)})["a"].shape == ()

    def test_a_full_disk_leaves_the_checkpoint_that_was_there(self, copy, monkeypatch):
        calls = []

        def fsync(file):
            calls.append(file)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        before = {path.name: path.read_bytes() for path in copy.iterdir()}
        with pytest.raises(ValueError, match=r"cannot be written .*No space left.*free some space"):
            tiny_pipeline().save_pretrained(copy, "bfloat16")
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"cannot be written to .*: give one that you may write to\.$"):
            tiny_pipeline().save_pretrained(tmp_path / "file" / "checkpoint")


class TestWrongCheckpoint:
    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match=r"no checkpoint 'emojy', .*give a packaged one .*or a directory"
        ):
            MusePipeline.from_pretrained("emojy")

    def test_directory_without_a_checkpoint(self, tmp_path):
        with pytest.raises(ValueError, match=r"is a directory without config\.json"):
            load(tmp_path)

    def test_missing_weights(self, copy):
        (copy / "superres.safetensors").unlink()
        with pytest.raises(ValueError, match=r"There is no weights file .*superres\.safetensors"):
            load(copy)

    @pytest.mark.parametrize("cut", [0, 5, -1])
    def test_cut_weights(self, copy, cut):
        file = copy / "vqgan.safetensors"
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(ValueError, match=r"vqgan\.safetensors is damaged .*fetch or export"):
            load(copy)

    def test_weights_that_are_not_finite(self, tmp_path):
        file = tmp_path / "x.safetensors"
        bad = np.float32([1, np.nan])
        file.write_bytes(weights_to_bytes({"a": np.float32([1, 2])}, "float32")[:-8] + bad.tobytes())
        with pytest.raises(ValueError, match="is damaged at 'a'"):
            read_weights(file, {"a": bad})

    def test_misfitting_shape(self, copy):
        edit_config(copy, lambda config: config["base"]["network"].update(mlp_dim=48))
        with pytest.raises(ValueError, match=r"base\.safetensors has '.*' of shape \(.*\), but config"):
            load(copy)

    def test_weights_of_another_network(self, copy):
        shutil.copy(copy / "vqgan.safetensors", copy / "base.safetensors")
        with pytest.raises(ValueError, match=r"base\.safetensors lacks '.*': it is not of the network"):
            load(copy)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda c: c.update(format=7), "format 7, but this muse_jax reads 1 and 2"),
            (lambda c: c.pop("base"), r"config\.json is damaged"),
            (lambda c: c["base"].pop("sampling"), r"config\.json is damaged"),
            (
                lambda c: c["base"]["network"].update(colour=1),
                "does not describe a MaskedTransformer .*colour",
            ),
            (lambda c: c["base"]["network"].update(heads=5), "base networks of .* cannot be built: .*width"),
            (lambda c: c["base"]["sampling"].update(order="up"), "order must be one of"),
            (lambda c: c["base"]["sampling"].update(speed=1), "sampling has the unknown key 'speed'"),
        ],
    )
    def test_wrong_config(self, copy, change, message):
        edit_config(copy, change)
        with pytest.raises(ValueError, match=message):
            load(copy)

    def test_config_that_is_no_json(self, copy):
        (copy / "config.json").write_text("{")
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            load(copy)


class TestPartsThatDoNotFit:
    @pytest.mark.parametrize(
        "name, change, message",
        [
            (
                "base",
                {"text_dim": 512},
                "reads text states of width 512, but the text encoder 'minilm' gives 384",
            ),
            ("base", {"vocab_size": 17}, "base network generates 17 codes, but its tokenizer has 16 codes"),
            (
                "superres",
                {"low_grid": (2, 2)},
                r"reads 16 codes on a grid \(2, 2\), but the base .* \(4, 4\)",
            ),
        ],
    )
    def test_refused(self, name, change, message):
        pipe = tiny_pipeline()
        part = getattr(pipe, name)
        wrong = dataclasses.replace(part, network=part.network.clone(**change))
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(pipe, **{name: wrong})


def test_sampling_defaults_are_those_of_the_checkpoint(saved):
    assert load(saved).superres.sampling == MaskedSampling(num_steps=2, order="halton")
