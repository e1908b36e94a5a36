"""Times block sizes of the Pallas kernels on this device, and writes the best ones into their table.

    python -m experiments.tune_kernels

The table is pallas_kernels/local_attention/tuning.json. Run this once on each new kind of TPU or GPU.
Candidates that do not compile are skipped. The best candidate has the smallest geometric mean of times over
the cases, so that large cases do not dominate.
"""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import apps
from experiments.benchmark.timing import time_in_turn
from pallas_kernels.dispatch import current_platform
from pallas_kernels.local_attention import tuning
from pallas_kernels.local_attention.arg_specs import CASES, Case

_OUT = flags.DEFINE_string("out", str(tuning.TABLE), "Table to write.")
_BATCH = flags.DEFINE_integer("batch", 4, "Number of images.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed calls of each candidate; the median counts.")

Step = Callable[..., Any]


def candidates(platform: str) -> Iterable[tuning.Settings]:
    """The candidate settings for "tpu" or "gpu"."""
    if platform == "tpu":
        return [{"scores": 2**power} for power in range(15, 21)]
    names = ("tile", "chunk", "warps", "stages")
    choices = itertools.product((32, 64, 128), (32, 64, 128), (2, 4, 8), (1, 2, 3))
    return [dict(zip(names, choice, strict=True)) for choice in choices]


def make_step(attend: Step, case: Case, kernel: str, **options: Any) -> Step:
    """A jitted call of `attend` on the arguments of `case`: its output, or its gradients."""

    def forward(*arguments):
        return attend(*arguments, case.geometry, **options)

    def backward(query, keys, values, extra):
        out, pull_back = jax.vjp(lambda *windows: forward(*windows, extra), query, keys, values)
        return pull_back(out)

    return jax.jit(forward if kernel == "forward" else backward)


def measure(step: Step, arguments: Any, repeats: int) -> float:
    """Median seconds of a call, after one that compiles."""
    return statistics.median(time_in_turn({"step": lambda _: step(*arguments)}, repeats)["step"])


def _arguments(case: Case, batch: int) -> Any:
    structs = case.arguments(batch, jnp.bfloat16)
    key = jax.random.key(0)

    def draw(struct: jax.ShapeDtypeStruct) -> jax.Array:
        if struct.dtype == bool:
            return jnp.ones(struct.shape, bool)
        return jax.random.normal(key, struct.shape, struct.dtype)

    return jax.tree.map(draw, structs)


def score(attend: Step, kernel: str, cases: Iterable[Case], batch: int, repeats: int) -> float:
    """Geometric mean of the seconds over `cases`, with the current settings of the table."""
    times = [measure(make_step(attend, c, kernel), _arguments(c, batch), repeats) for c in cases]
    return math.exp(statistics.fmean(map(math.log, times)))


def tune(platform: str, kind: str, attend: Step) -> None:
    """Finds the best settings for `kind`, kernel by kernel, and stores them in the loaded table."""
    kinds = tuning.read_table()[platform]
    kinds[kind] = dict(kinds["default"])
    for kernel in ("forward", "backward"):
        best = math.inf, kinds["default"][kernel]
        for candidate in candidates(platform):
            kinds[kind][kernel] = candidate
            try:
                seconds = score(attend, kernel, CASES, _BATCH.value, _REPEATS.value)
            except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
                print(f"{kernel} {candidate}: not supported ({str(error).splitlines()[0][:80]})", flush=True)
                continue
            print(f"{kernel} {candidate}: {1e3 * seconds:.3f} ms", flush=True)
            best = min(best, (seconds, candidate), key=lambda pair: pair[0])
        kinds[kind][kernel] = best[1]


def main() -> None:
    """Tunes for the default device."""
    platform = current_platform()
    if platform not in ("tpu", "gpu"):
        raise ValueError(
            f"Block sizes are for TPUs and GPUs, but JAX runs on {platform}: run this on such a device."
        )
    if platform == "tpu":
        from pallas_kernels.local_attention.tpu import attend
    else:
        from pallas_kernels.local_attention.gpu import attend
    tune(platform, tuning.device_kind(), attend)
    with open(_OUT.value, "w", encoding="utf-8") as file:
        json.dump(tuning.read_table(), file, indent=2)
        file.write("\n")
    print(f"The settings of {tuning.device_kind()} are in {_OUT.value}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; the table has not changed.")
