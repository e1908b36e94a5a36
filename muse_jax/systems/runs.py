"""Pipelines of trained runs, straight from their workdirs."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from muse_jax.checkpointing.pretrained import find_checkpoint
from muse_jax.checkpointing.safetensors import content_hash
from muse_jax.checkpointing.source import (
    is_checkpoint,
    tokenizer_hash,
    tokenizer_module,
    tokenizer_params,
    trained_params,
)
from muse_jax.sampling import lopar_top_k, step_table
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.pipeline import FINE, CogView2Pipeline
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.systems.stages import FineStage, Stage
from muse_jax.systems.validation import CogLMDecoding, Decoding
from muse_jax.text import TextPieces, load_text_encoder
from muse_jax.tokenizers import VQGAN, codebook_rows, load_clusters
from muse_jax.tokenizers.clusters import FILE
from muse_jax.training import load_config, restore_params
from muse_jax.training.task import build

# Of a task, the network, the config key of its tokenizer, and how a config says that tokens are drawn.
_TASKS: dict[str, tuple[Any, str, str, Any]] = {
    "base": (MaskedTransformer, "tokenizer", "decoding", Decoding),
    "superres": (SuperResTransformer, "superres_tokenizer", "decoding", Decoding),
    "coglm": (CogLM, "tokenizer", "sampling", CogLMDecoding),
}


def load_stage(task: str, workdir: str, tokenizer: str, dtype: Any = None) -> Stage:
    """The stage that the run of `task` in `workdir` trained, over another tokenizer if one is given."""
    config = _load(task, workdir)
    key = _TASKS[task][1]
    source = tokenizer or config[key]
    network, vqgan, settings = stage_modules(config, source, dtype)
    params, vqgan_params = restore_params(workdir), tokenizer_params(key, source)
    return Stage(network, _cast(params, dtype), vqgan, _cast(vqgan_params, dtype), settings)


def stage_modules(config: Any, tokenizer: str = "", dtype: Any = None) -> tuple[Any, VQGAN, Any]:
    """The network, the tokenizer and the sampling settings of the stage that `config` trains.

    Args:
      config: of the run.
      tokenizer: in place of the config's.
      dtype: of the computation; None for the config's, and float32 in the tokenizer.
    """
    kind, key, section, decoding = _TASKS[config.task]
    network: Any = build(kind, "model", config.model)
    vqgan = tokenizer_module(key, tokenizer or config[key])
    if dtype is not None:
        network, vqgan = network.clone(dtype=dtype), vqgan.clone(dtype=dtype)
    return network, vqgan, decoding.from_mapping(config[section].to_dict())


def fine_modules(name: str, config: Any, dtype: Any = None) -> tuple[Any, Any]:
    """The network and the sampling settings of the stage `name` that `config` trains."""
    kind, decoding, _ = FINE[name]
    known = {field.name for field in dataclasses.fields(decoding)}
    given = {key: value for key, value in config.sampling.to_dict().items() if key in known}
    if name == "iterative":
        given["top_k"] = lopar_top_k(int(step_table(config.data.superres_factor).max()))
    network: Any = build(kind, "model", config.model)
    return network.clone(dtype=dtype or network.dtype), decoding.from_mapping(given)


def _cast(params: Any, dtype: Any) -> Any:
    return params if dtype is None else jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)


def _load(task: str, workdir: str, flag: str = "") -> Any:
    config = load_config(workdir)
    if config.task != task:
        raise ValueError(
            f"{flag or '--' + task}={workdir} holds a run of {config.task}: give the workdir of a {task} run."
        )
    return config


def load_runs(
    base: str,
    superres: str = "",
    tokenizer: str = "",
    superres_tokenizer: str = "",
    *,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> MusePipeline:
    """The pipeline of trained runs.

    Args:
      base, superres: workdirs; without `superres`, the base stage alone.
      tokenizer, superres_tokenizer: in place of those that the runs name.
      mesh: the devices to run on, see `Pipeline`; None for one.
      dtype: of the weights and of the computation; None for float32 weights and the runs' computation.

    Raises:
      ValueError: one sentence, for a workdir without such a run, and for runs that do not go together.
    """
    config = load_config(base)
    stages = [load_stage("base", base, tokenizer, dtype)]
    if superres:
        stages.append(load_stage("superres", superres, superres_tokenizer, dtype))
        _check_same(superres, load_config(superres).tokenizer, base, config.tokenizer, "tokenizer")
    elif superres_tokenizer:
        raise ValueError("--superres_tokenizer is given without --superres: give both or neither.")
    encoder = load_text_encoder(config.data.get("text_encoder", "minilm"), dtype=dtype or jnp.float32)
    return MusePipeline(encoder, *stages, mesh=mesh)


def load_cogview2_runs(
    coglm: str,
    direct: str = "",
    iterative: str = "",
    tokenizer: str = "",
    *,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> CogView2Pipeline:
    """The pipeline of trained runs; clusters come with the tokenizer that they name, if it has any.

    Args:
      coglm, direct, iterative: workdirs; the last two may be left out.
      tokenizer: in place of the one that the coglm run names.
      mesh, dtype: see `load_runs`.

    Raises:
      ValueError: one sentence, for a workdir without such a run, and for runs that do not go together.
    """
    config = _load("coglm", coglm)
    coarse = load_stage("coglm", coglm, tokenizer, dtype)
    fine = {}
    for task, workdir in (("direct", direct), ("iterative", iterative)):
        if workdir:
            fine[task] = _load_fine(task, workdir, dtype)
            for key in ("tokenizer", "text_pieces"):
                _check_same(workdir, load_config(workdir)[key], coglm, config[key], key)
    if direct and not is_checkpoint(load_config(direct).coglm):
        _check_same(direct, load_config(direct).coglm, "--coglm", coglm, "coglm")
    file = clusters_file(config.tokenizer)
    clusters = None
    if coarse.decoding.top_clusters or file.is_file():
        # In float32, since rounding moves codes over the borders of clusters.
        vqgan_params = tokenizer_params("tokenizer", tokenizer or config.tokenizer)
        clusters = load_clusters(file, codebook_rows(coarse.tokenizer.clone(dtype=jnp.float32), vqgan_params))
    pieces = TextPieces.from_file(config.text_pieces, coarse.network.text_pieces)
    return CogView2Pipeline(pieces, coarse, clusters, **fine, mesh=mesh)


def _load_fine(name: str, workdir: str, dtype: Any) -> FineStage:
    network, decoding = fine_modules(name, _load(f"{name}_superres", workdir, f"--{name}"), dtype)
    return FineStage(network, _cast(restore_params(workdir), dtype), decoding)


# By config key, a hash of the content that it names.
_CONTENT: dict[str, Callable[[str], str]] = {
    "tokenizer": lambda source: tokenizer_hash("tokenizer", source),
    "text_pieces": lambda file: hashlib.sha256(Path(file).read_bytes()).hexdigest(),
    "coglm": lambda source: content_hash(trained_params("coglm", source)),
}


def _check_same(workdir: str, used: str, other: str, wanted: str, key: str) -> None:
    """Refuses runs over two parts whose content differs; one that was moved is the same."""
    if Path(used).resolve() != Path(wanted).resolve() and _CONTENT[key](used) != _CONTENT[key](wanted):
        raise ValueError(
            f"{workdir} was trained with {key} {used!r}, but {other} has {wanted!r}: give runs that were "
            "trained together."
        )


def clusters_file(source: str) -> Path:
    """Where the clusters of a tokenizer's workdir or checkpoint are."""
    return (find_checkpoint(source) if is_checkpoint(source) else Path(source)) / FILE
