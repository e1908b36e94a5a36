"""Compiles a function for an accelerator that is not there: a TPU with libtpu, a GPU with JAX's CUDA plugin.

It says whether a program fits the chip and what it costs, on any linux machine with
`pip install -e '.[plan]'` or `pip install "jax[cuda12]"`.
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

# What XLA asks a GPU about itself, here of an H100 SXM, in the text form of XLA's GpuTargetConfigProto.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000 device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


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
def h100() -> Any:
    """An NVIDIA H100 to compile for.

    Raises:
      ValueError: if JAX's CUDA plugin is missing or did not load.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise ValueError('The GPU compiler is in JAX\'s CUDA plugin: pip install "jax[cuda12]".')
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=_H100, topology="1x1x1").devices[0]
    except NotImplementedError:
        raise ValueError(
            "JAX's CUDA plugin did not load, as happens where there is no GPU to use; "
            "set JAX_PLATFORMS=cpu before Python starts."
        ) from None


def compile_for_gpu(function: Callable, *arguments: Any) -> Compiled:
    """Compiles `function(*arguments)` for one NVIDIA H100, down to its machine code.

    Raises:
      ValueError: see `h100`.
      jax.errors.JaxRuntimeError: if the compiler refuses, as for want of shared memory.
    """
    return _compile(function, arguments, h100())


def _compile(function: Callable, arguments: Any, device: Any) -> Compiled:
    mesh = Mesh(np.array([device]), ("chip",))
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    # Pallas asks the mesh for the kind of TPU; without one it sees the CPU.
    with jax.set_mesh(mesh):
        executable = jax.jit(function).lower(*shapes).compile()
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
