"""Weights that training starts from or builds on: of a run's workdir, or of a pipeline's checkpoint.

A source is a workdir, a directory that a pipeline's `save_pretrained` wrote, or a packaged name ("emoji").
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from muse_jax.checkpointing import pretrained as checkpoint
from muse_jax.checkpointing.run import restore_params
from muse_jax.checkpointing.safetensors import content_hash
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.superres import (
    DirectSuperRes,
    IterativeSuperRes,
    direct_from_coglm,
    iterative_from_coglm,
    split_params,
)
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN
from muse_jax.training.config import load_config

# The stage of a checkpoint whose tokenizer a config key names, by system.
_STAGE = {
    "muse": {"tokenizer": "base", "superres_tokenizer": "superres"},
    "cogview2": {"tokenizer": "coarse", "superres_tokenizer": "coarse"},
}
# The stage and the network that a task trains.
_NETWORK: dict[str, tuple[str, type]] = {
    "base": ("base", MaskedTransformer),
    "superres": ("superres", SuperResTransformer),
    "coglm": ("coarse", CogLM),
    "direct_superres": ("direct", DirectSuperRes),
    "iterative_superres": ("iterative", IterativeSuperRes),
}


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
        directory, config, stage = _stage(source, key)
        return checkpoint.module_from(VQGAN, config[stage]["tokenizer"], directory)
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
        return checkpoint.read_part(*_stage(source, key), "tokenizer", VQGAN)[1]
    params = restore_params(source)["generator"]
    config = load_config(source)
    if config.task == "vqgan_decoder":
        params = {**tokenizer_params("tokenizer", config.tokenizer), **params}
    return params


def tokenizer_hash(key: str, source: str) -> str:
    """A hash of what makes tokens in that VQGAN: encoder and quantizer, whatever its decoder and place."""
    module = tokenizer_module(key, source)
    fields = checkpoint.fields_of(module.clone(decoder_filters=None, decoder_res_blocks=None))
    params = tokenizer_params(key, source)
    encoding = {name: params[name] for name in params if name != "decoder"}
    return hashlib.sha256(f"{sorted(fields.items())} {content_hash(encoding)}".encode()).hexdigest()


def trained_params(task: str, source: str) -> Any:
    """The parameters of `task` in `source`, as the task lays them out.

    Raises:
        ValueError: a checkpoint that has no such network, or neither a run nor a checkpoint.
    """
    if not is_checkpoint(source):
        return restore_params(source)
    if task in _NETWORK:
        stage, kind = _NETWORK[task]
        directory = checkpoint.find_checkpoint(source)
        config = checkpoint.read_config(directory)
        _check_stage(source, config, stage)
        own = (lambda params: split_params(params)[1]) if kind is DirectSuperRes else (lambda params: params)
        return checkpoint.read_part(directory, config, stage, "network", kind, stored=own)[1]
    return {"generator": tokenizer_params("tokenizer", source)}


def grown_params(config: Any) -> Any | None:
    """The weights of `config.init_from`, a CogLM's run, made over for a super-resolution task; else None."""
    if config.task not in ("direct_superres", "iterative_superres") or is_checkpoint(config.init_from):
        return None
    run = load_config(config.init_from)
    if run.task != "coglm":
        return None
    grow = direct_from_coglm if config.task == "direct_superres" else iterative_from_coglm
    grid = tuple(run.model.grid)
    return jax.device_get(grow(restore_params(config.init_from), grid, config.data.superres_factor))


def _stage(source: str, key: str) -> tuple[Path, dict[str, Any], str]:
    """A checkpoint's directory and config, and the stage whose tokenizer the config key names."""
    directory = checkpoint.find_checkpoint(source)
    config = checkpoint.read_config(directory)
    stage = _STAGE[config["system"]][key]
    _check_stage(source, config, stage)
    return directory, config, stage


def _check_stage(source: str, config: dict[str, Any], stage: str) -> None:
    if config.get(stage) is None:
        raise ValueError(f"The checkpoint {source} has no {stage} stage: give one that has.")
