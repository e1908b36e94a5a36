"""Shapes of a module's parameters, without computing one."""

import functools
from typing import Any

import jax
from flax import linen as nn


def abstract_params(module: nn.Module, *inputs: Any) -> dict[str, Any]:
    """The tree of shapes of a module's parameters for the given example inputs."""
    # Unboxed inside the trace: under a mesh, unboxing constrains shardings, which shapes alone cannot have.
    init = lambda key: nn.meta.unbox(module.init(key, *inputs))  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))["params"]


@functools.lru_cache(maxsize=16)
def parameter_shapes(module: Any) -> dict[str, Any]:
    """The tree of shapes of a module's parameters; the module has `example_inputs()`."""
    return abstract_params(module, *module.example_inputs())


@functools.lru_cache(maxsize=16)
def boxed_shapes(module: Any) -> Any:
    """`parameter_shapes` under the logical names of their axes."""
    return jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())["params"]
