"""Weights that training starts from or builds on: of a run's workdir, or of a pipeline's checkpoint.

A source is a workdir, a directory that `MusePipeline.save_pretrained` wrote, or a packaged name ("emoji").
"""

import json
from pathlib import Path
from typing import Any

from muse_jax import checkpoint
from muse_jax.networks import MaskedTransformer, SuperResTransformer
from muse_jax.tokenizers import VQGAN
from muse_jax.training.checkpoints import restore_params
from muse_jax.training.config import load_config
from muse_jax.weights import read_weights

# The stage of a checkpoint whose tokenizer a config key names, and the network that a task trains.
_STAGE = {"tokenizer": "base", "superres_tokenizer": "superres"}
_NETWORK = {"base": MaskedTransformer, "superres": SuperResTransformer}


def is_checkpoint(source: str) -> bool:
    """Whether `source` is a pipeline's checkpoint rather than a run's workdir."""
    if source in checkpoint.packaged_names():
        return True
    try:
        return "format" in json.loads((Path(source) / checkpoint.CONFIG).read_text())
    except (OSError, ValueError):
        return False


def tokenizer_module(key: str, source: str) -> VQGAN:
    """The VQGAN of `source` without its weights; of a checkpoint, that of the stage that `key` belongs to.

    Raises:
        ValueError: `source` holds none; `key` is the config key to mend.
    """
    if source and is_checkpoint(source):
        return _part(source, _STAGE[key], "tokenizer", VQGAN)[0]
    if not source or not (Path(source) / "config.json").is_file():
        raise ValueError(
            f"config.{key} is {source!r}, where no tokenizer was trained: give the workdir of a vqgan run or "
            f"a checkpoint, --config.{key}=DIR."
        )
    model = load_config(source).model.to_dict()
    return checkpoint.module_from(VQGAN, {k: v for k, v in model.items() if k != "dtype"}, Path(source))


def tokenizer_params(key: str, source: str) -> Any:
    """The (averaged) weights of that VQGAN; a run of the decoder alone takes the rest from its tokenizer."""
    if is_checkpoint(source):
        return _weights(source, _STAGE[key], "tokenizer", VQGAN)
    params = restore_params(source)["generator"]
    config = load_config(source)
    if config.task == "vqgan_decoder":
        params = {**tokenizer_params("tokenizer", config.tokenizer), **params}
    return params


def trained_params(task: str, source: str) -> Any:
    """The parameters of `task` in `source`, as the task lays them out.

    Raises:
        ValueError: a checkpoint that has no such network, or neither a run nor a checkpoint.
    """
    if not is_checkpoint(source):
        return restore_params(source)
    if task in _NETWORK:
        return _weights(source, task, "network", _NETWORK[task])
    return {"generator": _weights(source, "base", "tokenizer", VQGAN)}


def _part(source: str, stage: str, part: str, kind: type) -> tuple[Any, Path]:
    """The module of a checkpoint's stage, and the file of its weights."""
    directory = checkpoint.find_checkpoint(source)
    config = checkpoint.read_config(directory)[stage]
    if config is None:
        raise ValueError(f"The checkpoint {source} has no {stage} stage: give one that has.")
    file = checkpoint.FILES[stage][("network", "tokenizer").index(part)]
    return checkpoint.module_from(kind, config[part], directory), directory / f"{file}.safetensors"


def _weights(source: str, stage: str, part: str, kind: type) -> Any:
    module, file = _part(source, stage, part, kind)
    return read_weights(file, checkpoint.parameter_shapes(module))
