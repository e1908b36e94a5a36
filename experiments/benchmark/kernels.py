"""Local attention and masked sampling compared with plain implementations, in one process.

Each case of `pallas_kernels.local_attention.arg_specs` runs on the kernel for this platform, on dense masked
attention in XLA and on `jax.nn.dot_product_attention`; on a GPU with PyTorch also on FlexAttention with the
same mask and on NATTEN. `masked_sampling` is compared with an implementation that materializes the logits.
The implementations take turns; times are medians. Memory is the temporaries and results of the compiled
program (PyTorch: the peak allocation beside the inputs). The roofline counts only pairs inside the window,
two products forward and five backward, and each array once per pass. Its peak is the data sheet's for bf16
(on a CPU, that of a measured fp32 product), and its bandwidth that of a measured copy.

    python -m experiments.benchmark.kernels --out=runs/kernels    # all tables, on this machine
    python -m experiments.benchmark.kernels --platform=tpu-aot    # compiled for TPUs, without a TPU
    python -m experiments.benchmark.kernels --platform=gpu-aot    # compiled for an H100 and an A100
"""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import apps
from experiments.benchmark import attention_peers as peers
from experiments.benchmark.timing import machine, time_in_turn
from muse_jax.training.flops import peak_flops
from pallas_kernels.dispatch import select
from pallas_kernels.local_attention.arg_specs import CASES, Case
from pallas_kernels.masked_sampling import masked_sampling

_PLATFORM = flags.DEFINE_enum(
    "platform", "here", ["here", "tpu-aot", "gpu-aot"], "Run on this machine, or compile for TPUs or GPUs."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Type of the arrays; by default float32 on a CPU, otherwise bfloat16.",
)
_OUT = flags.DEFINE_string("out", "runs/kernels", "Folder for the plot.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each implementation.", lower_bound=1)
_LIMIT = flags.DEFINE_float("limit_gib", 8.0, "Programs that need more memory are not run.")
_TABLES = flags.DEFINE_multi_enum(
    "table", ["cases", "sampling", "sides"], ["cases", "sampling", "sides"], "Tables to make, in order."
)
_TORCH = flags.DEFINE_bool("torch", True, "On a GPU, also time PyTorch if it is installed.")
_CASES = flags.DEFINE_multi_string("case", [], "Name of a case to time; repeatable; by default all.")
_SMALL = flags.DEFINE_bool("small", False, "Tiny shapes, to test the script.")

_SIDES = (32, 48, 64, 96, 128)
_SMALL_CASES = (
    Case("12x12, window 3x3", (12, 12), (3, 3), heads=2, dim=32),
    Case("12x12, window 3x5 and 4x4, 3x3, 3 text", (12, 12), (3, 5), None, False, (4, 4), (3, 3), 3, 2, 32),
)
_WIDTH = 1024  # of the hidden states for masked sampling
_TEMPERATURE = 1.3
_VOCABS = (8192, 20_000)


class Run(NamedTuple):
    """Compiled function: a blocking call, and the bytes that it needs beside its inputs."""

    call: Callable[[], Any]
    bytes: int


def jax_run(function: Callable, *arguments: Any) -> Run:
    """Compiles a JAX function for its arguments; bytes are those of temporaries and results."""
    compiled = jax.jit(function).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Run(lambda: jax.block_until_ready(compiled(*arguments)), needed)


def torch_run(function: Callable[[], Any]) -> Run:
    """Warms up a PyTorch function; bytes are the peak allocation of one further call."""
    import torch

    def call() -> Any:
        out = function()
        torch.cuda.synchronize()
        return out

    call()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return Run(call, torch.cuda.max_memory_allocated() - before)


def measure(runs: dict[str, Run]) -> dict[str, float]:
    """Median seconds per call of each run within the memory limit."""
    runs = {name: run for name, run in runs.items() if run.bytes <= _LIMIT.value * 2**30}
    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        run.call()
        start = time.perf_counter()
        run.call()
        calls[name] = int(np.clip(0.02 / (time.perf_counter() - start), 1, 50))
    for _ in range(_REPEATS.value):
        for name, run in runs.items():
            run.call()  # untimed: after a run that takes gigabytes, memory has to be mapped again
            start = time.perf_counter()
            for _ in range(calls[name]):
                run.call()
            times[name].append((time.perf_counter() - start) / calls[name])
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def random_arguments(case: Case, dtype: Any) -> list[Any]:
    """Random arguments of a case, its dense mask, and a cotangent of the output."""
    structs = case.arguments(dtype=dtype)
    leaves, tree = jax.tree.flatten((*structs, structs[0]))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    *arrays, cotangent = jax.tree.unflatten(
        tree,
        [
            jnp.ones(x.shape, x.dtype) if x.dtype == bool else jax.random.normal(key, x.shape, x.dtype)
            for key, x in zip(keys, leaves, strict=True)
        ],
    )
    return [*arrays, jnp.asarray(peers.dense_mask(case)), cotangent]


def floor_seconds(case: Case, arrays: list[Any], backward: bool, peak: float, bandwidth: float) -> float:
    """Lower bound of the time: the arithmetic, or reading and writing each array once per pass."""
    pairs = int(arrays[-2].sum())
    products = 7 if backward else 2
    flops = 2.0 * products * pairs * case.heads * case.dim
    query, keys = arrays[0].nbytes, sum(k.nbytes for k in jax.tree.leaves(arrays[1]))
    keys += 0 if arrays[3] is None else arrays[3][0].nbytes
    moved = 2 * query + 2 * keys  # query and output, keys and values
    if backward:
        moved += 4 * query + 4 * keys  # query, output and their gradients; keys, values and theirs
    return max(flops / peak, moved / bandwidth)


def measured_bandwidth(size: int = 2**26) -> float:
    """Bytes per second that a copy of floats reads and writes."""
    x = jnp.ones(size, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 8.0 * size / min(time_in_turn({"copy": lambda _: copy(x)}, 5)["copy"])


def torch_forms(case: Case, arrays: list[Any]) -> dict[str, tuple[Run, Run]]:
    """Both passes of FlexAttention and NATTEN; prints how FlexAttention differs from dense attention."""
    import torch

    query, keys, values, extra, mask, cotangent = arrays
    made = {
        "FlexAttention": peers.flex_attention(case, query, keys, values, extra),
        "NATTEN (moves windows at edges)": peers.neighborhood_attention(case, query, keys, values),
    }
    runs = {}
    for name, form in made.items():
        if form is None:
            continue
        function, tensors, order = form
        out = function()
        if order is not None:
            difference = np.abs(
                out.detach().float().permute(order).cpu().numpy()
                - np.float32(peers.dense(query, keys, values, extra, mask))
            ).max()
            print(f"{case.name}: {name} differs from dense by at most {difference:.1e}", flush=True)
        grad = torch.randn_like(out)
        backward = functools.partial(_torch_gradients, function, tensors, grad)
        runs[name] = torch_run(torch.no_grad()(function)), torch_run(backward)
    return runs


def _torch_gradients(function: Callable, tensors: list[Any], grad: Any) -> Any:
    import torch

    return torch.autograd.grad(function(), tensors, grad)


def attention_table(cases: tuple[Case, ...], dtype: Any, peak: float | None, bandwidth: float) -> None:
    """Prints time, memory and share of the roofline for each case and implementation, as Markdown."""
    print("\n| case | form | forward | forward + backward | memory | of the roofline | against dense |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        arrays = random_arguments(case, dtype)
        runs = both_passes(case, arrays)
        if _with_torch():
            runs |= torch_forms(case, arrays)
        forward = measure({name: pair[0] for name, pair in runs.items()})
        backward = measure({name: pair[1] for name, pair in runs.items()})
        floor = None if peak is None else floor_seconds(case, arrays, True, peak, bandwidth)
        for name, (_, run) in runs.items():
            seconds, base = backward.get(name), backward.get("dense, XLA")
            share = f"{100 * floor / seconds:.1f} %" if floor and seconds else "?"
            ratio = f"{base / seconds:.2f}x" if base and seconds else "?"
            times = " | ".join(_milliseconds(s) for s in (forward.get(name), seconds))
            print(f"| {case.name} | {name} | {times} | {_mib(run.bytes)} | {share} | {ratio} |", flush=True)


def _with_torch() -> bool:
    return _TORCH.value and jax.default_backend() == "gpu" and peers.has_torch()


def both_passes(case: Case, arrays: list[Any]) -> dict[str, tuple[Run, Run]]:
    """For each JAX implementation that compiles: the forward pass, and the forward and backward passes."""
    names = tuple(dict.fromkeys((select(None), "xla")))
    runs = {}
    for name, make in peers.attention_forms(names).items():
        form = make(case)
        try:
            runs[name] = jax_run(form, *arrays[:-1]), jax_run(peers.gradients(form), *arrays)
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            print(f"{case.name}: {name} is not supported ({str(error).splitlines()[0][:80]})", flush=True)
    return runs


def _milliseconds(seconds: float | None) -> str:
    return "not run" if seconds is None else f"{1e3 * seconds:.2f} ms"


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def time_by_side(dtype: Any) -> None:
    """Prints and plots the time of both passes over the side of a square grid, with a 9x9 window."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    times: dict[str, dict[int, float]] = {}
    print("\n| side | form | forward + backward | a token | memory |\n|---|---|---|---|---|")
    for side in (8, 16) if _SMALL.value else _SIDES:
        case = Case(f"{side}x{side}", (side, side), (9, 9))
        arrays = random_arguments(case, dtype)
        runs = {name: pair[1] for name, pair in both_passes(case, arrays).items()}
        if _with_torch():
            runs |= {name: pair[1] for name, pair in torch_forms(case, arrays).items()}
        seconds = measure(runs)
        for name, run in runs.items():
            token = f"{1e6 * seconds[name] / side**2:.2f} us" if name in seconds else "not run"
            print(
                f"| {side} | {name} | {_milliseconds(seconds.get(name))} | {token} | {_mib(run.bytes)} |",
                flush=True,
            )
        for name, value in seconds.items():
            times.setdefault(name, {})[side] = value
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    for name, by_side in times.items():
        axes.loglog(list(by_side), [1e3 * s for s in by_side.values()], marker="o", label=name)
    sides = sorted({side for by_side in times.values() for side in by_side})
    axes.set_xticks(sides, list(map(str, sides)))
    axes.minorticks_off()
    axes.set(xlabel="side of the grid", ylabel="forward + backward, ms")
    axes.set_title(f"Window 9x9, 8 heads x 64, {jnp.dtype(dtype).name}\n{machine()}")
    axes.legend()
    path = Path(_OUT.value) / f"local_attention_{jax.default_backend()}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nPlot: {path}")


def draw_from_logits(hidden, table, bias, key):
    """Masked sampling in plain XLA: logits, noise, argmax, log-softmax."""
    logits = jnp.einsum("bnd,vd->bnv", hidden, table, preferred_element_type=jnp.float32) + bias
    logits = logits / _TEMPERATURE
    token = jnp.argmax(logits + jax.random.gumbel(key, logits.shape), axis=-1)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return token, jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]


def sampling_table(dtype: Any) -> None:
    """Prints time and memory of sampling in one decoding step, with materialized logits and without."""
    batch, tokens = (2, 16) if _SMALL.value else (256, 256) if jax.default_backend() == "gpu" else (4, 256)
    print("\n| batch x tokens x vocabulary | form | time | memory |\n|---|---|---|---|")
    for vocab in (512,) if _SMALL.value else _VOCABS:
        key = jax.random.key(0)
        hidden = jax.random.normal(key, (batch, tokens, _WIDTH), dtype)
        table = jax.random.normal(key, (vocab, _WIDTH), dtype) * _WIDTH**-0.5
        arguments = (hidden, table, jnp.zeros(vocab), key)
        runs = {
            f"masked_sampling ({select(None)})": jax_run(
                lambda *a: masked_sampling(*a, temperature=_TEMPERATURE), *arguments
            ),
            "logits, XLA": jax_run(draw_from_logits, *arguments),
        }
        seconds = measure(runs)
        for name, run in runs.items():
            row = f"{batch} x {tokens} x {vocab} | {name} | {_milliseconds(seconds.get(name))}"
            print(f"| {row} | {_mib(run.bytes)} |", flush=True)


def main() -> None:
    """Prints the tables of the chosen platform."""
    cases: tuple[Case, ...] = _SMALL_CASES if _SMALL.value else CASES
    cases = tuple(case for case in cases if not _CASES.value or case.name in _CASES.value)
    if _PLATFORM.value != "here":
        from experiments.benchmark import kernels_aot

        jax.config.update("jax_platforms", "cpu")  # does not look for accelerators
        vocabs, rows = ((512,), 64) if _SMALL.value else (_VOCABS, 65_536)
        draws = [(rows, _WIDTH, vocab) for vocab in vocabs]
        tables = {"tpu-aot": kernels_aot.tpu_tables, "gpu-aot": kernels_aot.gpu_tables}
        tables[_PLATFORM.value](cases, draws, jnp.dtype(_DTYPE.value or "bfloat16"))
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory for PyTorch
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.dtype(_DTYPE.value or ("float32" if on_cpu else "bfloat16"))
    device = jax.devices()[0]
    peak, bandwidth = peak_flops(device), measured_bandwidth()
    print(
        f"{machine()}; "
        f"{dtype.name}, {_REPEATS.value} repeats; peak {(peak or 0) / 1e9:.0f} GFLOP/s, "
        f"copy {bandwidth / 1e9:.0f} GB/s"
    )
    makers = {
        "cases": functools.partial(attention_table, cases, dtype, peak, bandwidth),
        "sampling": functools.partial(sampling_table, dtype),
        "sides": functools.partial(time_by_side, dtype),
    }
    for name in _TABLES.value:
        makers[name]()


if __name__ == "__main__":
    apps.run(main)
