"""The train step and the generate program of a config, lowered for a mesh without a weight or a picture."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from muse_jax.checkpointing.pretrained import parameter_shapes
from muse_jax.checkpointing.source import is_checkpoint
from muse_jax.sharding.partitioning import batch_sharding, check_batch_size, on_mesh, tree_shardings
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.cogview2.superres import split_params
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.registry import make_task
from muse_jax.systems.runs import fine_modules, stage_modules
from muse_jax.systems.stages import FineStage, Stage
from muse_jax.text import TextPieces, load_text_encoder
from muse_jax.tokenizers import Clusters
from muse_jax.training.config import save_config, validate_config
from muse_jax.training.config_checks import READ_BY
from muse_jax.training.flops import count_flops, jaxpr_flops
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.state import create_state, jit_train_step, make_train_step

FindConfig = Callable[[str], Mapping[str, Any] | None]
_TOKENIZERS = ("tokenizer", "superres_tokenizer")


class Traced(NamedTuple):
    """A program before it is compiled.

    lower: makes the lowered program. parameters: of the networks trained or, generating, of all. frozen: of
    the networks beside the trained one. flops: of one call on all devices, what is recomputed included.
    model_flops: without that.
    """

    lower: Callable[[], Any]
    parameters: int
    frozen: int
    flops: float
    model_flops: float


@contextmanager
def planned(config: Any, find_config: FindConfig):
    """The config with the parts that it builds on described, where they are not there yet.

    A tokenizer's workdir that does not exist is described by the config of its name, which `find_config`
    finds ("runs/vqgan_f16_256": that of "vqgan_f16_256"); T5 by its directory's name.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        for key in _TOKENIZERS:
            source = config.get(key)
            if not source or is_checkpoint(source) or (Path(source) / "config.json").is_file():
                continue
            described = find_config(Path(source).name)
            if described is not None:
                config[key] = str(Path(folder) / Path(source).name)
                Path(config[key]).mkdir(exist_ok=True)
                save_config(config[key], validate_config(described))
        if config.task in READ_BY["data.text_encoder"]:
            encoder = config.data.get("text_encoder", "minilm")
            config.data.text_encoder = f"shapes:{Path(encoder.removeprefix('t5:')).name}"
        yield validate_config(config)


def trace_train(config: Any, mesh: Mesh) -> Traced:
    """The train step as the loop jits it.

    Raises:
      ValueError: a batch that the mesh does not divide, or what the task refuses.
    """
    check_batch_size(config.data.batch_size, mesh, config.optim.accumulate)
    task: Any = make_task(config)
    optimizer = make_optimizer(config.optim, config.total_steps)
    schedule = make_schedule(config.optim, config.total_steps)
    _, shapes, shardings = create_state(task, optimizer, config.seed, mesh)
    boxed = task.frozen_shapes()
    frozen = _placed(meta.unbox(boxed), tree_shardings(boxed, mesh))
    batch = {name: _on(leaf, batch_sharding(mesh)) for name, leaf in task.batch_shapes().items()}
    arguments = (_placed(shapes, shardings), frozen, batch)
    step = make_train_step(task, optimizer, schedule, config, shardings)
    flops = model_flops = count_flops(step, *arguments)
    if config.model.get("remat"):
        plain = ml_collections.ConfigDict(config.to_dict())
        plain.model.remat = False
        plain_task: Any = make_task(plain)
        plain_step = make_train_step(plain_task, optimizer, schedule, plain)
        model_flops = count_flops(plain_step, *arguments)

    def lower() -> Any:
        with on_mesh(mesh):
            return jit_train_step(step, shardings, frozen, mesh).lower(*arguments)

    return Traced(lower, _count(shapes.params), _count(frozen), flops, model_flops)


def trace_generate(config: Any, superres: Any, mesh: Mesh) -> Traced:
    """The program that a pipeline's `generate` runs: `config.data.batch_size` prompts, the default settings.

    Args:
      config: of the base network, or of a CogLM.
      superres: of the second stage's network (of CogView2's, the direct one's), or None.

    Raises:
      ValueError: a batch that the mesh does not divide, or a config of another task.
    """
    check_batch_size(config.data.batch_size, mesh)
    if config.task not in _PIPELINES:
        raise ValueError(
            f"config.task is {config.task!r}, but generating starts from one of {', '.join(_PIPELINES)}: "
            "give the config of such a network as --config, and that of super-resolution as --superres."
        )
    pipe = _PIPELINES[config.task](config, superres, mesh)
    traced = pipe.trace_generate(config.data.batch_size)
    flops = jaxpr_flops(traced.jaxpr)

    def lower() -> Any:
        with on_mesh(mesh):
            return traced.lower()

    return Traced(lower, _count(pipe.params), 0, flops, flops)


def _muse(config: Any, superres: Any, mesh: Mesh) -> MusePipeline:
    stages = [_stage(config)] + ([_stage(superres)] if superres else [])
    encoder = load_text_encoder(config.data.text_encoder, dtype=stages[0].network.dtype)
    return MusePipeline(encoder, *stages, mesh=mesh)


def _cogview2(config: Any, superres: Any, mesh: Mesh) -> CogView2Pipeline:
    coarse, direct = _stage(config), None
    if superres:
        network, sampling = fine_modules("direct", superres)
        own = split_params(parameter_shapes(network))[1]
        direct = FineStage(network, _shapes(own, network.dtype), sampling)
    clusters = Clusters(np.zeros(coarse.tokenizer.codebook_size, np.int32), np.zeros((NUM_CLUSTERS, 1)))
    return CogView2Pipeline(_NoText(None, coarse.network.text_pieces), coarse, clusters, direct, mesh=mesh)


_PIPELINES: dict[str, Callable[..., MusePipeline | CogView2Pipeline]] = {"base": _muse, "coglm": _cogview2}
NUM_CLUSTERS = 500  # CogView2's, and the default of experiments.cluster_codebook


class _NoText(TextPieces):
    """A sentencepiece model that is not there yet."""

    def __len__(self) -> int:
        return 0


def _stage(config: Any) -> Stage:
    """The stage that `config` trains, its weights shapes in the type that it computes in."""
    network, vqgan, sampling = stage_modules(config)
    weights = [_shapes(parameter_shapes(module), network.dtype) for module in (network, vqgan)]
    return Stage(network, weights[0], vqgan.clone(dtype=network.dtype), weights[1], sampling)


def _shapes(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)


def _on(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(_on, shapes, shardings)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
