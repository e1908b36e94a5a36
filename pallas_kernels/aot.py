"""Ahead-of-time compilation for TPUs (by libtpu) and GPUs (by JAX's CUDA plugin) that are not present.

It tells whether a program fits the chip and what it costs, on any Linux machine after
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

# The smallest slice of each generation that the compiler knows.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}

# libtpu takes a machine-wide lock, asks a metadata server for its host and needs the name of a chip. None of
# this applies without a TPU.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Compiled program, its bytes of device memory, and the compiler's cost figures (may be empty)."""

    executable: Any
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    code_bytes: int
    cost: dict[str, float]


def missing() -> str | None:
    """Reason why nothing can be compiled for TPUs here, or None."""
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu, the compiler for TPUs, is not installed: `pip install -e '.[plan]'` (linux x86_64)."
    return None


def missing_for_gpu() -> str | None:
    """Reason why nothing can be compiled for absent GPUs here, or None."""
    try:
        gpus("h100")
    except ValueError as reason:
        return str(reason)
    return None


@functools.cache
def devices(topology: str) -> tuple[Any, ...]:
    """Devices of a TPU topology such as "v5e:16x16"; "v5e" is the smallest one of its generation.

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
      jax.errors.JaxRuntimeError: if the compiler fails, for instance for lack of VMEM or HBM.
    """
    return _compile(function, arguments, devices(topology)[0])


@functools.cache
def gpus(kind: str, nodes: int = 1, each: int = 1) -> tuple[Any, ...]:
    """GPU devices to compile for: `nodes` nodes with `each` GPUs of a kind in `GPUS`.

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
            "JAX's CUDA plugin did not load, as happens on machines without a GPU: set JAX_PLATFORMS=cpu "
            "before Python starts."
        ) from None
    return tuple(described.devices)


def compile_for_gpu(
    function: Callable, *arguments: Any, kind: str = "h100", dump: str | None = None
) -> Compiled:
    """Compiles `function(*arguments)` for one GPU of `kind`, down to its machine code.

    Args:
      dump: directory for the compiler's intermediate files, PTX among them.

    Raises:
      ValueError: see `gpus`.
      jax.errors.JaxRuntimeError: if the compiler fails, for instance for lack of shared memory.
    """
    options = {"xla_dump_to": dump} if dump else None
    return _compile(function, arguments, gpus(kind)[0], options)


def _compile(
    function: Callable, arguments: Any, device: Any, options: dict[str, Any] | None = None
) -> Compiled:
    mesh = Mesh(np.array([device]), ("chip",))
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    # Pallas takes the kind of TPU from the mesh; without one it sees the CPU.
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
