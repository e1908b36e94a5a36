"""Compilers' reports on the kernels for TPUs and GPUs, without these devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark import attention_peers as peers
from pallas_kernels.local_attention.arg_specs import Case

_TOPOLOGIES = ("v5e", "v5p", "v6e", "tpu7x")
_GPUS = ("h100", "a100")

Draw = tuple[int, int, int]  # rows, width and vocabulary of masked sampling


def _draw_arguments(draw: Draw, dtype: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    (rows, width, vocab), struct = draw, jax.ShapeDtypeStruct
    weights = struct((rows, width), dtype), struct((vocab, width), dtype), struct((vocab,), jnp.float32)
    return *weights, struct((2,), jnp.uint32), struct((), jnp.float32)


def tpu_tables(cases: tuple[Case, ...], draws: list[Draw], dtype: Any) -> None:
    """Prints memory and cost of each program according to the TPU compiler."""
    from pallas_kernels.aot import compile_for_tpu
    from pallas_kernels.masked_sampling import tpu as sampling

    def row(label: str, function: Callable, *arguments: Any) -> None:
        for topology in _TOPOLOGIES:
            try:
                program = compile_for_tpu(function, *arguments, topology=topology)
            except jax.errors.JaxRuntimeError as error:
                print(
                    f"| {label} | {topology} | refused: {str(error).splitlines()[0][:80]} | | | |", flush=True
                )
                continue
            cost = [f"{program.cost.get(name, 0.0) / 1e9:.2f}" for name in ("flops", "bytes accessed")]
            sizes = program.temporary_bytes, program.output_bytes
            memory = " | ".join(f"{size / 2**20:.1f} MiB" for size in sizes)
            print(f"| {label} | {topology} | {memory} | {' | '.join(cost)} |", flush=True)

    print("\n| program | form | chip | temporaries | results | GFLOP | GB accessed |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        structs = case.arguments(dtype=dtype)
        keys = sum(window.tokens for window in case.geometry.windows) + case.extra
        mask = jax.ShapeDtypeStruct((case.geometry.tokens, keys), jnp.bool_)
        forms = peers.attention_forms(("tpu",))
        for name in ("local_attention (tpu)", "dense, XLA"):
            form = forms[name](case)
            row(f"{case.name}, forward | {name}", form, *structs, mask)
            row(f"{case.name}, both | {name}", peers.gradients(form), *structs, mask, structs[0])
    for draw in draws:
        row(f"masked_sampling, {draw[0]} x {draw[2]} | tpu", sampling.sample, *_draw_arguments(draw, dtype))


def gpu_tables(cases: tuple[Case, ...], draws: list[Draw], dtype: Any) -> None:
    """Prints registers, spills, shared memory and tensor core instructions of each kernel."""
    from pallas_kernels.assembly import assemble
    from pallas_kernels.gpu_targets import GPUS
    from pallas_kernels.local_attention import gpu as attention
    from pallas_kernels.masked_sampling import gpu as sampling

    def rows(label: str, function: Callable, *arguments: Any) -> None:
        for kind in _GPUS:
            for kernel in assemble(function, *arguments, kind=kind):
                tensor = ", ".join(f"{count} {name}" for name, count in kernel.tensor.items()) or "none"
                print(
                    f"| {label} | {kind} | {kernel.name} | {kernel.programs} | {kernel.threads} "
                    f"| {kernel.registers} | {kernel.spilled} | {kernel.shared / 1024:.0f} "
                    f"| {kernel.occupancy(GPUS[kind]):.0%} | {tensor} |",
                    flush=True,
                )

    columns = "program", "GPU", "kernel", "programs", "threads", "registers", "spilled, B", "shared, KiB"
    print(f"\n| {' | '.join(columns)} | warps | products |\n{'|---' * 10}|")
    for case in cases:
        structs = case.arguments(dtype=dtype)
        form = _without_mask(attention.attend, case)
        rows(case.name, peers.gradients(form), *structs, None, structs[0])
    for draw in draws:
        rows(f"{draw[0]} x {draw[2]}, width {draw[1]}", sampling.sample, *_draw_arguments(draw, dtype))


def _without_mask(attend: Callable, case: Case) -> Callable:
    return lambda query, keys, values, extra, mask: attend(query, keys, values, extra, case.geometry)
