"""Helpers for tests of GPU kernels, on a GPU or lowered for one."""

from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels import aot

TRITON = "__gpu$xla.gpu.triton"
# Properties that Pallas needs of the GPU it lowers for; JAX 0.12 does not guess them without one.
_H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="There is no GPU here."),
]
needs_gpu_compiler = pytest.mark.skipif(aot.missing_for_gpu() is not None, reason=aot.missing_for_gpu() or "")


def lower_for_cuda(function: Callable, *arguments: Any) -> export.Exported:
    """Lowers `function(*arguments)` for one H100; arguments are pytrees of shapes and dtypes."""
    check = export.DisabledSafetyCheck.custom_call(TRITON)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("chip",), abstract_device=_H100)):
        return export.export(jax.jit(function), platforms=["cuda"], disabled_checks=[check])(*arguments)
