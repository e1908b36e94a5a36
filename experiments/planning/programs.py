"""The train step, generate and embed programs of a config, lowered for a mesh without weights or data."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax.core import meta
from jax.sharding import Mesh

from muse_jax.checkpointing.pretrained import CONFIG, FORMAT, is_pretrained
from muse_jax.checkpointing.run_config import config_file, save_config
from muse_jax.checkpointing.source import ConfigSource
from muse_jax.evaluation.embedders import EMBEDDERS
from muse_jax.evaluation.embedding import FeatureSums
from muse_jax.nn.inception import SIZE, InceptionV3
from muse_jax.nn.shapes import abstract_params
from muse_jax.sharding.partitioning import (
    batch_sharding,
    check_batch_size,
    on_mesh,
    replicated,
    tree_shardings,
)
from muse_jax.system import find_system, make_task
from muse_jax.training.config import validate_config
from muse_jax.training.flops import count_flops, jaxpr_flops
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.state import create_state, jit_train_step, make_train_step

FindConfig = Callable[[str], Mapping[str, Any] | None]
_SOURCES = ("tokenizer", "superres_tokenizer", "text_encoder")


class Traced(NamedTuple):
    """A program before compilation.

    lower: function that returns the lowered program.
    parameters: number of trained parameters; for generating, of all parameters.
    frozen: number of parameters that are used but not trained.
    flops: of one call on all devices, including recomputation.
    model_flops: the same without recomputation.
    """

    lower: Callable[[], Any]
    parameters: int
    frozen: int
    flops: float
    model_flops: float


@contextmanager
def planned(config: Any, find_config: FindConfig):
    """Context with a config whose missing tokenizers and text encoders are replaced by descriptions.

    A tokenizer's workdir that does not exist is described by the config of the same name, which `find_config`
    returns ("runs/vqgan_f16_256" by the config "vqgan_f16_256"), or as the published checkpoint of this name
    ("checkpoints/amused-256"); T5 is described by the name of its directory.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        for key in _SOURCES:
            source = config.get(key)
            if not source or is_pretrained(source) or config_file(source) is not None:
                continue
            name = Path(source).name
            place = Path(folder) / name
            published, described = find_system(config.system).published.get(name), find_config(name)
            if published is not None:
                place.mkdir(exist_ok=True)
                (place / CONFIG).write_text(json.dumps({"format": FORMAT, **published}))
            elif described is not None:
                place.mkdir(exist_ok=True)
                save_config(place, validate_config(described))
            else:
                continue
            config[key] = str(place)
        if encoder := config.data.get("text_encoder"):
            config.data.text_encoder = f"shapes:{Path(encoder.removeprefix('t5:')).name}"
        yield validate_config(config)


def trace_train(config: Any, mesh: Mesh) -> Traced:
    """The train step as the loop jits it.

    Raises:
      ValueError: the mesh does not divide the batch, or the task rejects the config.
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
    """The program of a pipeline's `generate` for `config.data.batch_size` prompts, with default sampling.

    Args:
      config: config of the first stage.
      superres: config of the second stage, or None.
      mesh: the mesh to run on.

    Raises:
      ValueError: the mesh does not divide the batch, or a config belongs to another task.
    """
    check_batch_size(config.data.batch_size, mesh)
    pipe = _pipeline([config, *([superres] if superres else [])], mesh)
    traced = pipe.trace_generate(config.data.batch_size)
    flops = jaxpr_flops(traced.jaxpr)

    def lower() -> Any:
        with on_mesh(mesh):
            return traced.lower()

    return Traced(lower, _count(pipe.params), 0, flops, flops)


def trace_embed(config: Any, superres: Any, mesh: Mesh) -> Traced:
    """The program that an evaluation of a pipeline's FID runs after each `generate`.

    It resizes a batch of images to Inception's input, embeds them, and adds them to the moments. Arguments
    and errors as in `trace_generate`.
    """
    check_batch_size(config.data.batch_size, mesh)
    sums = FeatureSums(EMBEDDERS["inception"], "clean", 30_000, mesh)
    size = (superres or config).data.image_size
    params = abstract_params(InceptionV3(), jnp.zeros((1, SIZE, SIZE, 3)))
    batch, rows, whole = config.data.batch_size, batch_sharding(mesh), replicated(mesh)
    arguments = (
        _placed(jax.eval_shape(sums.zeros), sums.shardings),
        jax.tree.map(lambda leaf: _on(leaf, whole), params),
        _on(jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8), rows),
        _on(jax.ShapeDtypeStruct((batch,), bool), rows),
    )
    with on_mesh(mesh):
        add = jax.jit(sums.add, donate_argnums=0, out_shardings=(sums.shardings, whole))
        traced = add.trace(*arguments)
    flops = jaxpr_flops(traced.jaxpr)

    def lower() -> Any:
        with on_mesh(mesh):
            return traced.lower()

    return Traced(lower, 0, _count(params), flops, flops)


def _pipeline(configs: Sequence[Any], mesh: Mesh) -> Any:
    """Pipeline of the networks that the configs train, with shapes as weights."""
    system = find_system(configs[0].system)
    if system.pipeline is None:
        raise ValueError(f"config.system is {system.name!r}, which has no pipeline: give another config.")
    sources = {system.stage_of(config.task): ConfigSource(config) for config in configs}
    dtype = configs[0].model.get("dtype", "float32")
    return system.pipeline.from_sources(sources, mesh=mesh, dtype=dtype)


def _on(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(_on, shapes, shardings)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
