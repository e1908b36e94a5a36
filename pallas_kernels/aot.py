"""Compiles a function for an accelerator that is not there: a TPU with libtpu, a GPU with JAX's CUDA plugin.

It says whether a program fits the chip and what it costs, on any linux machine after
`pip install -e '.[plan]'` or, for GPUs, `make gpu-compiler`.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels.gpu_targets import GPUS

# The smallest slice that each generation's compiler knows.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}

# libtpu takes a machine-wide lock, asks a metadata server what it runs on, and wants a chip's name; here
# there is no chip to lock or to ask about.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program: its handle, its bytes of HBM, and the compiler's cost figures (may be empty)."""

    executable: Any
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    code_bytes: int
    cost: dict[str, float]


def missing() -> str | None:
    """Why nothing can be compiled here for a TPU; None when it can."""
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu, the compiler for TPUs, is not installed: `pip install -e '.[plan]'` (linux x86_64)."
    return None


def missing_for_gpu() -> str | None:
    """Why nothing can be compiled here for a GPU that is not there; None when it can."""
    try:
        gpus("h100")
    except ValueError as reason:
        return str(reason)
    return None


@functools.cache
def devices(topology: str) -> tuple[Any, ...]:
    """The devices of a TPU topology such as "v5e:16x16", or of a generation's smallest, "v5e".

    Raises:
      ValueError: if libtpu is missing.
    """
    reason = missing()
    if reason is not None:
        raise ValueError(reason)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    name = TOPOLOGIES.get(topology, topology)
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


def compile_for_tpu(function: Callable, *arguments: Any, topology: str = "v5e") -> Compiled:
    """Compiles `function(*arguments)` for one chip of `topology`.

    Args:
      arguments: pytrees of arrays or `jax.ShapeDtypeStruct`s.
      topology: see `devices`.

    Raises:
      ValueError: if libtpu is missing.
      jax.errors.JaxRuntimeError: if the compiler refuses, as for want of VMEM or HBM.
    """
    return _compile(function, arguments, devices(topology)[0])


@functools.cache
def gpus(kind: str, nodes: int = 1, each: int = 1) -> tuple[Any, ...]:
    """GPUs of a kind in `GPUS`, `each` to a node, to compile for.

    Raises:
      ValueError: if JAX's CUDA plugin is missing or did not load.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise ValueError(
            "JAX's CUDA plugin, which carries the GPU compiler, is not installed: make gpu-compiler."
        )
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=GPUS[kind].target(), topology=f"1x{nodes}x{each}"
        )
    except NotImplementedError:
        raise ValueError(
            "JAX's CUDA plugin did not load, as happens where there is no GPU to use: "
            "set JAX_PLATFORMS=cpu before Python starts."
        ) from None
    return tuple(described.devices)


def compile_for_gpu(
    function: Callable, *arguments: Any, kind: str = "h100", dump: str | None = None
) -> Compiled:
    """Compiles `function(*arguments)` for one GPU of `kind`, down to its machine code.

    Args:
      dump: a folder that the compiler leaves its steps in, PTX among them.

    Raises:
      ValueError: see `gpus`.
      jax.errors.JaxRuntimeError: if the compiler refuses, as for want of shared memory.
    """
    options = {"xla_dump_to": dump} if dump else None
    return _compile(function, arguments, gpus(kind)[0], options)


def _compile(
    function: Callable, arguments: Any, device: Any, options: dict[str, Any] | None = None
) -> Compiled:
    mesh = Mesh(np.array([device]), ("chip",))
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    # Pallas asks the mesh for the kind of TPU; without one it sees the CPU.
    with jax.set_mesh(mesh):
        executable = jax.jit(function).lower(*shapes).compile(compiler_options=options)
    memory: Any = executable.memory_analysis()
    cost = executable.cost_analysis() or {}
    return Compiled(
        executable=executable,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        cost={name: value for name, value in cost.items() if name in ("flops", "bytes accessed")},
    )
