"""The least time that a program's arithmetic, memory traffic and communication take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.planning.chips import Chip
from experiments.planning.hlo import Collective


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step that each resource is busy at its peak rate."""

    mxu: float
    hbm: float
    ici: float

    @property
    def seconds(self) -> float:
        """The least time of a step: the three overlap perfectly."""
        return max(self.mxu, self.hbm, self.ici)

    @property
    def serial_seconds(self) -> float:
        """The time of a step if nothing overlaps."""
        return self.mxu + self.hbm + self.ici

    @property
    def bound(self) -> str:
        """What takes longest: "MXU", "HBM" or "ICI"."""
        return max(("MXU", self.mxu), ("HBM", self.hbm), ("ICI", self.ici), key=lambda item: item[1])[0]


def wire_bytes(collective: Collective) -> float:
    """Bytes that a device must receive for one such collective over n devices.

    Of the shard it has, an all-gather brings n - 1 others; a reduce-scatter and an all-to-all move (n - 1)/n
    of the operand; an all-reduce is one of each; a permute moves the operand once.
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
    """Bytes a second that each device of a group can receive in a collective of `kind`.

    Args:
      sides: of the whole topology.
      spanned: along how many places of each dimension the group's devices lie.

    In a torus a dimension that the group fills has both of its links at work if it is a ring, one if it is a
    line. A group on a part of a dimension is a line. Groups within one chip (two devices of it) count as one
    link.
    """
    if chip.dimensions == 0:
        return _node_bandwidth(chip, kind, *spanned)
    links = 0
    for side, places in zip(sides, spanned, strict=False):
        if places > 1:
            links += 2 if places == side and side % chip.ring == 0 and side > 2 else 1
    return max(1, links) * chip.link


def _node_bandwidth(chip: Chip, kind: str, nodes: int, each: int) -> float:
    """That of `each` GPUs on each of some nodes, every one with its own adapter to the other nodes.

    Of what gathers and reductions bring a node from outside, each of its GPUs fetches a part, and they share
    the parts over NVLink. An all-to-all brings each GPU only its own part. In a permutation
    the slowest pair lies in two nodes.
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
    """How many different places the devices of a group take along each dimension of the torus."""
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
    """Times of a program.

    Args:
      flops: of all devices together.
      hbm_bytes: of one device.
      collectives: what a device takes part in, and how often.
      sides: of the topology; coordinates: of each device in it, in the program's order.
    """
    ici = 0.0
    for collective, times in collectives:
        group = [coordinates[i] for i in collective.group] if coordinates else []
        bandwidth = group_bandwidth(chip, collective.kind, sides, spanned_places(group))
        ici += times * wire_bytes(collective) / bandwidth
    return Roofline(flops / (devices * chip.flops), hbm_bytes / chip.bandwidth, ici)


def utilisation(model_flops: float, seconds: float, devices: int, chip: Chip) -> float:
    """The share of the peak that the network's own arithmetic (without recomputation) makes up."""
    return model_flops / (seconds * devices * chip.flops) if math.isfinite(seconds) and seconds else 0.0
