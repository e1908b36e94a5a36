"""Pods by name: "v5e:16x16" is a torus of TPUs, "h100:8x8" is eight nodes of eight GPUs."""

import functools
import re
from dataclasses import dataclass
from typing import Any

import jax

from experiments.planning.chips import CHIPS, Chip
from pallas_kernels import aot


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    sides: of the torus of chips, or (nodes, GPUs per node).
    """

    name: str
    chip: Chip
    sides: tuple[int, ...]
    devices: tuple[Any, ...]

    def coordinates(self, device: Any) -> tuple[int, ...]:
        """Position of a device's chip in the torus, or its node and its number there."""
        first = 0 if self.chip.dimensions else 1  # a GPU's slice comes first
        return tuple(device.coords)[first : first + len(self.sides)]


@functools.cache
def load_topology(name: str) -> Topology:
    """Loads "GENERATION:SIDES", such as v5e:16x16, v5p:4x4x4, tpu7x:2x2x1, h100:8 or h100:8x8.

    The sides are those of the torus in chips, the number of GPUs of one node, or nodes x GPUs per node.

    Raises:
      ValueError: the topology does not exist, or its compiler is not installed.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise ValueError(
            f"There is no topology {name!r}: give GENERATION:SIDES, one of {', '.join(CHIPS)} and the "
            "sides in chips, such as v5e:16x16, v5p:4x4x4 or h100:8x8."
        )
    chip, lengths = CHIPS[kind], tuple(int(side) for side in sides.split("x"))
    if chip.dimensions == 0 and len(lengths) == 1:
        lengths = (1, *lengths)
    expected = chip.dimensions or 2
    if len(lengths) != expected:
        raise ValueError(
            f"The topology {name!r} has {len(lengths)} sides, but {kind} has {expected}: "
            f"give {kind}:{'x'.join('4' * expected)}, for instance."
        )
    devices = _tpus(name) if chip.dimensions else _gpus(name, kind, lengths)
    return Topology(name, chip, lengths, devices)


def _tpus(name: str) -> tuple[Any, ...]:
    if reason := aot.missing():
        raise ValueError(f"A plan for {name} needs a compiler that is not installed: {reason}")
    try:
        return aot.devices(name)
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"There is no topology {name!r} ({why}): give one that can be rented, such as v5e:4x4."
        ) from error


def _gpus(name: str, kind: str, sides: tuple[int, ...]) -> tuple[Any, ...]:
    try:
        return aot.gpus(kind, *sides)
    except ValueError as reason:
        raise ValueError(f"A plan for {name} needs a compiler that is not installed: {reason}") from None
