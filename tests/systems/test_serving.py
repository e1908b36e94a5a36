"""Served programs, run by a process that cannot import this package, against the pipeline."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.serving import MANIFEST, PROGRAM, WEIGHTS, save_program
from tests.systems.muse.tiny import tiny_pipeline

PROMPTS = ["a red car", "a blue heart"]
# What a server does: read the files, tokenize, call.
SERVER = """
import json, sys
from pathlib import Path

sys.modules["muse_jax"] = sys.modules["pallas_kernels"] = sys.modules["flax"] = None
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder, prompts = Path(sys.argv[1]), json.loads(sys.argv[2])
manifest = json.loads((folder / "program.json").read_text())
program = export.deserialize(bytearray((folder / "program.stablehlo").read_bytes()))
weights = load_file(folder / "weights.safetensors")
words = Tokenizer.from_file(str(folder / "tokenizer.json"))
words.no_truncation()
words.enable_padding(length=manifest["inputs"]["texts/ids"][0][1])

def tokenized(texts, prefix):
    read = words.encode_batch(texts)
    ids = np.array([each.ids for each in read], np.int32)
    mask = np.array([each.attention_mask for each in read], bool)
    return {f"texts/{prefix}ids": ids, f"texts/{prefix}mask": mask}

inputs = tokenized(prompts, "") | tokenized([""], "negative_")
sampling = {name: np.array(value, kind) for name, (value, kind) in manifest["sampling"].items()}
images = program.call(weights, inputs, sampling, np.uint32(7))
np.save(folder / "images.npy", images)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_program_serves_the_images_of_the_pipeline(dtype, tmp_path):
    pipe = stored_as(tiny_pipeline(), dtype)
    sizes = save_program(pipe, tmp_path, 2, dtype)
    assert set(sizes) == {PROGRAM, WEIGHTS, MANIFEST, "tokenizer.json"}
    assert sizes[PROGRAM] < 2e6  # the weights are not in it
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["outputs"] == [[[2, 32, 32, 3], "uint8"]]
    command = [sys.executable, "-c", SERVER, str(tmp_path), json.dumps(PROMPTS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), pipe.generate(PROMPTS, seed=7))


def stored_as(pipe, dtype):
    """The pipeline with weights as a file of `dtype` holds them."""

    def rounded(part):
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), part)

    encoder = dataclasses.replace(pipe.text_encoder, params=rounded(pipe.text_encoder.params))
    stages = {
        name: dataclasses.replace(
            stage, params=rounded(stage.params), tokenizer_params=rounded(stage.tokenizer_params)
        )
        for name, stage in pipe.stages.items()
    }
    return MusePipeline(encoder, **stages)


def test_a_program_needs_a_batch_and_a_cpu(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="batch size is 0, but a program serves at least 1"):
        save_program(tiny_pipeline(), tmp_path, 0)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="export a program with JAX_PLATFORMS=cpu"):
        save_program(tiny_pipeline(), tmp_path, 1)
