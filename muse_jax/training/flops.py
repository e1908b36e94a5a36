"""FLOPs of traced functions, and peak FLOP/s of devices."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Dense bf16 peak of one device in FLOP/s, from the manufacturers' data sheets. The first name that occurs in
# the device kind applies.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
    "TPU v2": 45e12,
    "TPU7x": 2307e12 / 2,  # JAX sees the two chiplets of a chip as two devices
}


def _dot_flops(eqn: Any) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contract)


def _conv_flops(eqn: Any) -> float:
    # Counts multiplications by padding zeros, as most published figures do.
    kernel = eqn.invars[1].aval.shape
    out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / out_features


def _sub_jaxprs(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    return [jaxpr for part in value for jaxpr in _sub_jaxprs(part)] if isinstance(value, tuple | list) else []


def _shards(eqn: Any) -> int:
    """Number of shards of a `shard_map`, whose body has the shapes of one shard.

    Devices along a mesh axis that no operand or result is split over repeat the same work, counted once.
    """
    specs = (*eqn.params["in_specs"], *eqn.params["out_specs"])
    entries = [entry for spec in specs for entry in spec if entry is not None]
    axes = {axis for entry in entries for axis in (entry if isinstance(entry, tuple) else (entry,))}
    return math.prod(eqn.params["mesh"].shape[axis] for axis in axes)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot_flops(eqn)
        elif name == "conv_general_dilated":
            total += _conv_flops(eqn)
        elif name == "cond":
            total += min(_count(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            repeats = eqn.params["length"] if name == "scan" else 1
            if name == "shard_map":
                repeats = _shards(eqn)
            if name == "pallas_call":
                repeats = math.prod(size for size in eqn.params["grid_mapping"].grid if isinstance(size, int))
            total += repeats * sum(
                _count(jaxpr) for value in eqn.params.values() for jaxpr in _sub_jaxprs(value)
            )
    return total


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of the matrix products and convolutions of one call, over the whole batch and all devices.

    The jaxpr is counted because XLA's cost analysis counts the body of a scan only once. Rematerialised
    operations count again. The cheapest branch of a `cond` and one iteration of a `while` count, so that a
    utilisation derived from the result is a lower bound.
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*args))


def jaxpr_flops(jaxpr: core.ClosedJaxpr) -> float:
    """Like `count_flops`, for a function that has been traced already."""
    return _count(jaxpr.jaxpr)


def measured_matmul_peak(size: int = 1024, repeats: int = 4) -> float:
    """FLOP/s of a float32 matrix product on the first device, best of `repeats`: a CPU's nominal peak."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(matrix))
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of one device: from `PEAKS`, measured on a CPU, or None for an unknown device."""
    if device.platform == "cpu":
        return measured_matmul_peak() / max(1, jax.local_device_count())  # virtual devices share the cores
    return next((peak for name, peak in PEAKS.items() if name.lower() in device.device_kind.lower()), None)
