"""Pipelines of trained runs, straight from their workdirs."""

import dataclasses
from pathlib import Path
from typing import Any

from muse_jax.checkpoint import find_checkpoint
from muse_jax.decoding import turns_table, turns_top_k
from muse_jax.networks import CogLM, MaskedTransformer, SuperResTransformer
from muse_jax.pipelines.cogview2 import FINE, CogView2Pipeline
from muse_jax.pipelines.muse import MusePipeline
from muse_jax.pipelines.settings import CogLMDecoding, Decoding
from muse_jax.pipelines.stages import FineStage, Stage
from muse_jax.text import TextPieces, load_text_encoder
from muse_jax.tokenizers import codebook_rows, load_clusters
from muse_jax.tokenizers.clusters import FILE
from muse_jax.training import load_config, restore_params
from muse_jax.training.pretrained import is_checkpoint, tokenizer_module, tokenizer_params
from muse_jax.training.tasks.task import build

# Of a task, the network, the config key of its tokenizer, and how a config says that tokens are drawn.
_TASKS: dict[str, tuple[Any, str, str, Any]] = {
    "base": (MaskedTransformer, "tokenizer", "decoding", Decoding),
    "superres": (SuperResTransformer, "superres_tokenizer", "decoding", Decoding),
    "coglm": (CogLM, "tokenizer", "sampling", CogLMDecoding),
}


def load_stage(task: str, workdir: str, tokenizer: str) -> Stage:
    """The stage that the run of `task` in `workdir` trained, over another tokenizer if one is given."""
    config = _load(task, workdir)
    kind, key, section, decoding = _TASKS[task]
    network = build(kind, "model", config.model)
    source = tokenizer or config[key]
    vqgan, vqgan_params = tokenizer_module(key, source), tokenizer_params(key, source)
    settings = decoding.from_mapping(config[section].to_dict())
    return Stage(network, restore_params(workdir), vqgan, vqgan_params, settings)


def _load(task: str, workdir: str, flag: str = "") -> Any:
    config = load_config(workdir)
    if config.task != task:
        raise ValueError(
            f"{flag or '--' + task}={workdir} holds a run of {config.task}: give the workdir of a {task} run."
        )
    return config


def load_runs(
    base: str, superres: str = "", tokenizer: str = "", superres_tokenizer: str = ""
) -> MusePipeline:
    """The pipeline of trained runs.

    Raises:
      ValueError: one sentence, for a workdir without such a run, and for runs that do not go together.
    """
    config = load_config(base)
    stages = [load_stage("base", base, tokenizer)]
    if superres:
        stages.append(load_stage("superres", superres, superres_tokenizer))
        low = load_config(superres).tokenizer
        if Path(low).resolve() != Path(config.tokenizer).resolve():
            raise ValueError(
                f"{superres} was trained on small tokens of {low}, but {base} draws those of "
                f"{config.tokenizer}: give runs over one tokenizer."
            )
    elif superres_tokenizer:
        raise ValueError("--superres_tokenizer is given without --superres: give both or neither.")
    return MusePipeline(load_text_encoder(config.data.get("text_encoder", "minilm")), *stages)


def load_cogview2_runs(
    coglm: str, direct: str = "", iterative: str = "", tokenizer: str = ""
) -> CogView2Pipeline:
    """The pipeline of trained runs; clusters come with the tokenizer that they name, if it has any.

    Raises:
      ValueError: one sentence, for a workdir without such a run, and for runs that do not go together.
    """
    config = _load("coglm", coglm)
    coarse = load_stage("coglm", coglm, tokenizer)
    fine = {}
    for task, workdir in (("direct", direct), ("iterative", iterative)):
        if workdir:
            fine[task] = _load_fine(task, workdir)
            for key in ("tokenizer", "text_pieces"):
                _check_same(workdir, load_config(workdir)[key], coglm, config[key], key)
    if direct and not is_checkpoint(load_config(direct).coglm):
        _check_same(direct, load_config(direct).coglm, "--coglm", coglm, "coglm")
    file = clusters_file(config.tokenizer)
    clusters = None
    if coarse.decoding.top_clusters or file.is_file():
        clusters = load_clusters(file, codebook_rows(coarse.tokenizer, coarse.tokenizer_params))
    pieces = TextPieces.from_file(config.text_pieces, coarse.network.text_pieces)
    return CogView2Pipeline(pieces, coarse, clusters, **fine)


def _load_fine(name: str, workdir: str) -> FineStage:
    config = _load(f"{name}_superres", workdir, f"--{name}")
    kind, decoding, _ = FINE[name]
    known = {field.name for field in dataclasses.fields(decoding)}
    given = {key: value for key, value in config.sampling.to_dict().items() if key in known}
    if name == "iterative":
        given["top_k"] = turns_top_k(int(turns_table(config.data.superres_factor).max()))
    network: Any = build(kind, "model", config.model)
    return FineStage(network, restore_params(workdir), decoding.from_mapping(given))


def _check_same(workdir: str, used: str, other: str, wanted: str, key: str) -> None:
    if Path(used).resolve() != Path(wanted).resolve():
        raise ValueError(
            f"{workdir} was trained with {key} {used!r}, but {other} has {wanted!r}: give runs that were "
            "trained together."
        )


def clusters_file(source: str) -> Path:
    """Where the clusters of a tokenizer's workdir or checkpoint are."""
    return (find_checkpoint(source) if is_checkpoint(source) else Path(source)) / FILE
