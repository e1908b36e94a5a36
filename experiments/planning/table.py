"""Plans as text, for a terminal and for tables of the documentation."""

import math
from collections.abc import Sequence

from experiments.planning.plan import Plan

GIGA = 1e9
COLUMNS = (
    "config", "program", "pod", "chips", "mesh d x f x t", "batch", "parts", "GB a device (of)",
    "TFLOP a device", "GB received", "MXU / HBM / ICI ms", "bound", "step ms", "utilisation", "images/s",
)  # fmt: skip


def describe(plan: Plan) -> str:
    """Full text of a plan, which says what is measured, counted and estimated."""
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    remat = {True: ", remat", False: ", no remat", None: ""}[plan.remat]
    parts = f", in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    device = "chip" if plan.devices == plan.chips else "device (half a chip)"
    lines = [
        f"{plan.name} {plan.program} on {plan.topology}: {plan.chips} chips, mesh {mesh}{remat}, "
        f"{plan.batch_size} images{parts}",
        f"  parameters          {plan.parameters / 1e6:.1f}M"
        + (f", and {plan.frozen_parameters / 1e6:.1f}M frozen" if plan.frozen_parameters else ""),
        f"  FLOPs a {'step' if plan.program == 'train' else 'call'}       {plan.flops:.3e}, "
        f"of which the networks' own {plan.model_flops:.3e} (counted in the traced program)",
    ]
    if math.isnan(plan.argument_bytes):
        needed = "more" if math.isnan(plan.needed) else f"{plan.needed / GIGA:.2f} GB"
        return "\n".join(
            [
                *lines,
                f"  DOES NOT FIT: it needs {needed}, but the {device} has {plan.memory / GIGA:.1f} GB",
            ]
        )
    lines += [
        f"  bytes a {device}: {plan.needed / GIGA:.2f} GB at the peak of {plan.memory / GIGA:.1f} GB "
        f"({'fits' if plan.fits else 'DOES NOT FIT'}): arguments {plan.argument_bytes / GIGA:.2f}, "
        f"temporaries {plan.temporary_bytes / GIGA:.2f}, "
        f"code {'?' if math.isnan(plan.code_bytes) else f'{plan.code_bytes / GIGA:.2f}'} (from the compiler)",
        f"  collectives, bytes that a {device} receives (counted in the program, loops multiplied out)",
        *(
            f"    {kind:<18} {each['bytes'] / GIGA:9.3f} GB in {each['count']:.0f}"
            for kind, each in sorted(plan.collectives.items(), key=lambda item: -item[1]["bytes"])
        ),
        f"  memory traffic      {plan.hbm_bytes / GIGA:.2f} GB (estimated from the program's shapes)",
        f"  roofline (estimate) MXU {1e3 * plan.mxu_seconds:.2f} ms, HBM {1e3 * plan.hbm_seconds:.2f} ms, "
        f"ICI {1e3 * plan.ici_seconds:.2f} ms: bound by {plan.bound}",
        f"  step time           {1e3 * plan.seconds:.2f} ms with full overlap, "
        f"{1e3 * plan.serial_seconds:.2f} ms without overlap: "
        f"utilisation {plan.utilisation:.1%}, {plan.images_per_second:.1f} images/s",
        *(f"  note: {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def received_bytes(plan: Plan) -> float:
    """Bytes that a device receives in all collectives of a step."""
    return sum(each["bytes"] for each in plan.collectives.values())


def _row(plan: Plan) -> list[str]:
    known = not math.isnan(plan.argument_bytes)
    needed = "?" if math.isnan(plan.needed) else f"{plan.needed / GIGA:.1f}"
    if known and math.isnan(plan.code_bytes):
        needed += " + code"
    first = [
        plan.name,
        plan.program,
        plan.topology,
        str(plan.chips),
        " x ".join(str(size) for size in plan.mesh.values()) + (" remat" if plan.remat else ""),
        str(plan.batch_size),
        str(plan.accumulate),
        f"{needed} ({plan.memory / GIGA:.0f})" + ("" if plan.fits else " **no**"),
        f"{plan.flops / plan.devices / 1e12:.2f}",
    ]
    if not known:
        return first + ["-"] * (len(COLUMNS) - len(first))
    times = (plan.mxu_seconds, plan.hbm_seconds, plan.ici_seconds)
    return [
        *first,
        f"{received_bytes(plan) / GIGA:.2f}",
        " / ".join(f"{1e3 * seconds:.1f}" for seconds in times),
        plan.bound,
        f"{1e3 * plan.seconds:.1f}",
        f"{plan.utilisation:.1%}",
        f"{plan.images_per_second:.0f}",
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_table(plans: Sequence[Plan]) -> str:
    """Markdown table with a row for each plan."""
    return _table(COLUMNS, [_row(plan) for plan in plans])


def markdown_weak_scaling(plans: Sequence[Plan]) -> str:
    """Markdown table of the bytes that a device receives as the pod grows at a fixed batch per device.

    Under FSDP a step gathers and scatters (n - 1)/n of the weights a fixed number of times; the last column
    divides by this factor.
    """
    columns = ("config", "pod", "devices", "batch", "GB received a device", "over (n - 1)/n")
    rows = []
    for plan in sorted(plans, key=lambda plan: plan.devices):
        share = (plan.devices - 1) / plan.devices
        received = received_bytes(plan) / GIGA
        rows.append(
            [plan.name, plan.topology, str(plan.devices), str(plan.batch_size), f"{received:.2f}"]
            + [f"{received / share:.2f}"]
        )
    return _table(columns, rows)
