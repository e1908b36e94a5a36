"""Pods by name: "v5e:16x16" is described by libtpu's compiler, "h100:8" is this machine's own GPUs."""

import functools
import re
from dataclasses import dataclass
from typing import Any

import jax

from muse_jax.planning.chips import CHIPS, Chip
from pallas_kernels import aot


@dataclass(frozen=True)
class Topology:
    """Devices to compile for. sides: of the torus of chips, (8,) for eight GPUs behind a switch."""

    name: str
    chip: Chip
    sides: tuple[int, ...]
    devices: tuple[Any, ...]

    def coordinates(self, device: Any) -> tuple[int, ...]:
        """Where a device's chip lies in the torus."""
        coordinates = getattr(device, "coords", (device.id,))
        return tuple(coordinates)[: max(1, self.chip.dimensions)]


@functools.cache
def load_topology(name: str) -> Topology:
    """The topology "GENERATION:SIDES", such as v5e:16x16, v5p:4x4x4, v6e:8x8, tpu7x:2x2x1 or h100:8.

    Raises:
      ValueError: one sentence, for one that does not exist or whose compiler is not at hand.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise ValueError(
            f"There is no topology {name!r}: give GENERATION:SIDES, one of {', '.join(CHIPS)} and the "
            "sides in chips, such as v5e:16x16 or v5p:4x4x4."
        )
    chip, lengths = CHIPS[kind], tuple(int(side) for side in sides.split("x"))
    if len(lengths) != max(1, chip.dimensions):
        raise ValueError(
            f"The topology {name!r} has {len(lengths)} sides, but a {kind} pod has "
            f"{max(1, chip.dimensions)}: give {'x'.join('4' * max(1, chip.dimensions))}, for instance."
        )
    devices = _gpus(name, lengths[0]) if chip.dimensions == 0 else _tpus(name, chip)
    return Topology(name, chip, lengths, devices)


def _tpus(name: str, chip: Chip) -> tuple[Any, ...]:
    if reason := aot.missing():
        raise ValueError(f"A plan for {name} needs a compiler that is not here: {reason}")
    try:
        devices = aot.devices(name)
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"There is no topology {name!r} ({why}): give one that can be rented, such as v5e:4x4."
        ) from error
    return tuple(devices)


def _gpus(name: str, count: int) -> tuple[Any, ...]:
    """This machine's: XLA compiles for GPUs only where it sees them."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:
        devices = []
    if len(devices) < count:
        raise ValueError(
            f"A plan for {name} needs {count} GPUs of that kind on this machine, which has {len(devices)}: "
            "XLA compiles for a GPU only where there is one."
        )
    return tuple(devices[:count])
