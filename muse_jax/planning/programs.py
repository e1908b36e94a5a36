"""The train step and the generate program of a config, lowered for a mesh without a weight or a picture."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from flax.core import meta
from jax.sharding import Mesh

from muse_jax.decoding import silent
from muse_jax.networks import MaskedTransformer, SuperResTransformer
from muse_jax.pipelines import programs
from muse_jax.text import TextEncoder, load_text_encoder
from muse_jax.training.config import save_config, validate_config
from muse_jax.training.flops import count_flops
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.partitioning import (
    RULES,
    batch_sharding,
    check_batch_size,
    replicated,
    tree_shardings,
)
from muse_jax.training.pretrained import is_checkpoint, tokenizer_module
from muse_jax.training.state import create_state, jit_train_step, make_train_step
from muse_jax.training.tasks import make_task
from muse_jax.training.tasks.task import build

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
        with _on_mesh(mesh):
            return jit_train_step(step, shardings, frozen, mesh).lower(*arguments)

    return Traced(lower, _count(shapes.params), _count(frozen), flops, model_flops)


def trace_generate(config: Any, superres: Any, mesh: Mesh) -> Traced:
    """The pipeline's program from text to pixels: `config.data.batch_size` pictures, guided, all steps.

    Args:
      config: of the base network.
      superres: of the second stage's, or None.
    """
    check_batch_size(config.data.batch_size, mesh)
    stages = [config] + ([superres] if superres else [])
    encoder = load_text_encoder(
        config.data.text_encoder, dtype=jnp.dtype(config.model.get("dtype", "float32"))
    )
    modules, inits = _modules(stages, encoder)
    params = {}
    for name, init in inits.items():
        boxed = jax.eval_shape(init, jax.random.key(0))["params"]
        params[name] = _placed(meta.unbox(boxed), tree_shardings(boxed, mesh))
    text = encoder.boxed_shapes()
    params["text"] = _placed(meta.unbox(text), tree_shardings(text, mesh))

    whole, split = replicated(mesh), batch_sharding(mesh)
    size, length = config.data.batch_size, encoder.max_length
    texts = programs.Texts(
        _on(jax.ShapeDtypeStruct((size, length), jnp.int32), split),
        _on(jax.ShapeDtypeStruct((size, length), bool), split),
        _on(jax.ShapeDtypeStruct((1, length), jnp.int32), whole),
        _on(jax.ShapeDtypeStruct((1, length), bool), whole),
    )
    number = _on(jax.ShapeDtypeStruct((), jnp.float32), whole)
    scales = tuple(programs.Scales(number, number, number) for _ in stages)
    seed = _on(jax.ShapeDtypeStruct((), jnp.uint32), whole)
    ticket = jax.tree.map(lambda leaf: _on(leaf, whole), jax.eval_shape(silent))
    decodings = [stage.decoding for stage in stages]
    plan = programs.Plan(tuple(d.num_steps for d in decodings), tuple(d.order for d in decodings))
    arguments = (params, texts, scales, seed, ticket)
    flops = count_flops(lambda *traced: programs.generate(modules, plan, *traced), *arguments)

    def lower() -> Any:
        with _on_mesh(mesh):
            return programs.generate.lower(modules, plan, *arguments)

    return Traced(lower, _count(params), 0, flops, flops)


def _modules(stages: list[Any], encoder: TextEncoder) -> tuple[programs.Modules, dict[str, Any]]:
    """The pipeline's networks, and how to make the parameters of each."""
    networks, tokenizers, inits = [], [], {}
    text = (jnp.zeros((1, encoder.max_length, encoder.dim)), jnp.ones((1, encoder.max_length), bool))
    for stage, (key, kind, names) in zip(stages, _STAGES):
        network: Any = build(kind, "model", stage.model)
        vqgan = tokenizer_module(key, stage[key]).clone(dtype=network.dtype)
        grids = [network.grid] + ([network.low_grid] if kind is SuperResTransformer else [])
        tokens = [jnp.zeros((1, height * width), jnp.int32) for height, width in grids]
        side = vqgan.downsampling
        inits[names[0]] = lambda rng, n=network, t=tokens: n.init(rng, *t, *text)
        inits[names[1]] = lambda rng, v=vqgan, s=side: v.init(rng, jnp.zeros((1, s, s, 3)))
        networks.append(network)
        tokenizers.append(vqgan)
    absent = [None] * (2 - len(stages))
    (base, superres), (vqgan, vqgan_superres) = networks + absent, tokenizers + absent
    return programs.Modules(encoder.module, base, vqgan, superres, vqgan_superres), inits


_STAGES: Any = (
    ("tokenizer", MaskedTransformer, ("base", "vqgan")),
    ("superres_tokenizer", SuperResTransformer, ("superres", "vqgan_superres")),
)


@contextmanager
def _on_mesh(mesh: Mesh):
    """The contexts that the training loop runs under. Nothing may be computed there: the devices are not."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def _on(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(_on, shapes, shardings)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
