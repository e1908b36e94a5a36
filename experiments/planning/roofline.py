"""Roofline: lower bounds of the time for arithmetic, memory traffic and communication."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.planning.chips import Chip
from experiments.planning.hlo import Collective


@dataclass(frozen=True)
class Roofline:
    """Seconds that each resource is busy in one step at its peak rate."""

    mxu: float
    hbm: float
    ici: float

    @property
    def seconds(self) -> float:
        """Time of a step if the three overlap perfectly."""
        return max(self.mxu, self.hbm, self.ici)

    @property
    def serial_seconds(self) -> float:
        """Time of a step if nothing overlaps."""
        return self.mxu + self.hbm + self.ici

    @property
    def bound(self) -> str:
        """The slowest resource: "MXU", "HBM" or "ICI"."""
        return max(("MXU", self.mxu), ("HBM", self.hbm), ("ICI", self.ici), key=lambda item: item[1])[0]


def wire_bytes(collective: Collective) -> float:
    """Bytes that a device must receive in a collective over n devices.

    An all-gather receives n - 1 shards like the device's own; a reduce-scatter and an all-to-all receive
    (n - 1)/n of the operand; an all-reduce is a reduce-scatter and an all-gather; a permute receives the
    operand once.
    """
    n, size = collective.group_size, collective.operand_bytes
    if collective.kind == "all-gather":
        return size * (n - 1)
    if collective.kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if collective.kind in ("reduce-scatter", "all-to-all"):
        return size * (n - 1) / n
    return size


def group_bandwidth(chip: Chip, kind: str, sides: Sequence[int], spanned: Sequence[int]) -> float:
    """Bytes per second that each device of a group can receive in a collective of `kind`.

    In a torus, a dimension that the group fills contributes two links if it is a ring and one if it is a
    line. A group on a part of a dimension is a line. A group within one chip (of two devices) counts as one
    link.

    Args:
      chip: the kind of device.
      kind: of the collective.
      sides: of the whole topology.
      spanned: number of different positions of the group's devices along each dimension.
    """
    if chip.dimensions == 0:
        return _node_bandwidth(chip, kind, *spanned)
    links = 0
    for side, places in zip(sides, spanned, strict=False):
        if places > 1:
            links += 2 if places == side and side % chip.ring == 0 and side > 2 else 1
    return max(1, links) * chip.link


def _node_bandwidth(chip: Chip, kind: str, nodes: int, each: int) -> float:
    """`group_bandwidth` of `each` GPUs on each of some nodes, all with their own adapter to the other nodes.

    In gathers and reductions each GPU of a node fetches a part of the data from other nodes, and the GPUs
    share the parts over NVLink. In an all-to-all each GPU receives only its own part. In a permutation the
    slowest pair spans two nodes.
    """
    if nodes == 1:
        return chip.link
    devices = nodes * each
    received = (devices - 1) / devices
    from_outside = {
        "all-to-all": (devices - each) / devices,
        "collective-permute": received,
    }.get(kind, (nodes - 1) / nodes / each)
    return min(chip.link, chip.network * received / from_outside)


def spanned_places(coordinates: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Number of different positions of a group's devices along each dimension."""
    return tuple(len(set(places)) for places in zip(*coordinates, strict=True))


def roofline(
    chip: Chip,
    devices: int,
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[tuple[Collective, float]],
    sides: Sequence[int],
    coordinates: Sequence[Sequence[int]],
) -> Roofline:
    """Roofline of a program.

    Args:
      chip: the kind of device.
      devices: number of devices.
      flops: of all devices together.
      hbm_bytes: memory traffic of one device.
      collectives: pairs of a collective and how often one device takes part in it.
      sides: of the topology.
      coordinates: of each device in the topology, in the program's order.
    """
    ici = 0.0
    for collective, times in collectives:
        group = [coordinates[i] for i in collective.group] if coordinates else []
        bandwidth = group_bandwidth(chip, collective.kind, sides, spanned_places(group))
        ici += times * wire_bytes(collective) / bandwidth
    return Roofline(flops / (devices * chip.flops), hbm_bytes / chip.bandwidth, ici)


def utilisation(model_flops: float, seconds: float, devices: int, chip: Chip) -> float:
    """Share of the peak that is used for the network's arithmetic, without recomputation."""
    return model_flops / (seconds * devices * chip.flops) if math.isfinite(seconds) and seconds else 0.0
