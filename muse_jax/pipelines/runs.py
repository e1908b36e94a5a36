"""A pipeline of trained runs, straight from their workdirs."""

from pathlib import Path
from typing import Any

from muse_jax.networks import MaskedTransformer, SuperResTransformer
from muse_jax.pipelines.muse import MusePipeline
from muse_jax.pipelines.settings import Decoding
from muse_jax.pipelines.stages import Stage
from muse_jax.text import load_text_encoder
from muse_jax.training import load_config, restore_params
from muse_jax.training.pretrained import tokenizer_module, tokenizer_params
from muse_jax.training.tasks.task import build


def load_stage(task: str, workdir: str, tokenizer: str) -> Stage:
    """The stage that the run of `task` in `workdir` trained, over another tokenizer if one is given."""
    config = load_config(workdir)
    if config.task != task:
        raise ValueError(
            f"--{task}={workdir} holds a run of {config.task}: give the workdir of a {task} run."
        )
    key = {"base": "tokenizer", "superres": "superres_tokenizer"}[task]
    kind: Any = {"base": MaskedTransformer, "superres": SuperResTransformer}[task]
    network = build(kind, "model", config.model)
    source = tokenizer or config[key]
    vqgan, vqgan_params = tokenizer_module(key, source), tokenizer_params(key, source)
    decoding = Decoding.from_mapping(config.decoding.to_dict())
    return Stage(network, restore_params(workdir), vqgan, vqgan_params, decoding)


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
