"""Times and bandwidths against figures worked out by hand."""

import pytest

from experiments.planning.chips import CHIPS
from experiments.planning.hlo import Collective
from experiments.planning.roofline import group_bandwidth, roofline, utilisation, wire_bytes


@pytest.mark.parametrize(
    "kind, received",
    [
        ("all-gather", 3 * 100),
        ("reduce-scatter", 75),
        ("all-reduce", 150),
        ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)
def test_bytes_received_over_four_devices(kind, received):
    assert wire_bytes(Collective(kind, 100, (0, 1, 2, 3))) == received


@pytest.mark.parametrize(
    "pod, sides, spanned, links",
    [
        ("v5e", (16, 16), (16, 1), 2),  # a ring
        ("v5e", (8, 8), (8, 1), 1),  # a line: only sides of 16 close
        ("v5e", (16, 16), (16, 16), 4),
        ("v5e", (16, 16), (4, 4), 2),  # part of each side
        ("v5p", (4, 4, 4), (4, 4, 1), 4),
        ("tpu7x", (4, 4, 4), (1, 1, 1), 1),  # the two halves of a chip
        ("h100", (8, 8), (1, 8), 1),
    ],
)
def test_links_that_a_group_has(pod, sides, spanned, links):
    chip = CHIPS[pod]
    assert group_bandwidth(chip, "all-gather", sides, spanned) == links * chip.link


def _seconds_over_adapters(kind: str, nodes: int, each: int, size: float, adapter: float) -> float:
    """The time of the busiest adapter of a collective of `size` bytes a device, each piece counted."""
    devices = [(node, place) for node in range(nodes) for place in range(each)]
    arrived = dict.fromkeys(devices, 0.0)
    for receiver in devices:
        for sender in devices:
            if sender[0] == receiver[0]:
                continue
            if kind == "all-to-all":  # a piece for every device
                arrived[receiver] += size / len(devices)
            elif sender[1] == receiver[1]:  # one piece a node, passed on inside it
                arrived[receiver] += size
    return max(arrived.values()) / adapter


@pytest.mark.parametrize("kind", ["all-gather", "all-to-all"])
@pytest.mark.parametrize("nodes, each", [(2, 1), (8, 1), (2, 4), (4, 8)])
def test_what_nodes_exchange_goes_through_each_gpus_own_adapter(kind, nodes, each):
    chip = CHIPS["h100"]
    seconds = wire_bytes(Collective(kind, 1e6, tuple(range(nodes * each)))) / group_bandwidth(
        chip, kind, (8, 8), (nodes, each)
    )
    over_links = wire_bytes(Collective(kind, 1e6, tuple(range(nodes * each)))) / chip.link
    over_adapters = _seconds_over_adapters(kind, nodes, each, 1e6, chip.network)
    assert seconds == pytest.approx(max(over_links, over_adapters))


def test_a_permutation_that_leaves_a_node_is_as_slow_as_its_adapter():
    chip = CHIPS["a100"]
    assert group_bandwidth(chip, "collective-permute", (2, 8), (2, 8)) == chip.network
    assert group_bandwidth(chip, "collective-permute", (2, 8), (1, 8)) == chip.link


def test_a_step_is_as_long_as_its_slowest_part():
    chip = CHIPS["v5e"]
    coordinates = [(i // 16, i % 16) for i in range(256)]
    gather = Collective("all-gather", 1e6, tuple(range(16)))
    limits = roofline(chip, 256, 256 * 197e12 * 0.02, 819e9 * 0.03, [(gather, 400)], (16, 16), coordinates)
    # 400 gathers bring 15 MB each, over two links of 50 GB/s.
    assert (limits.mxu, limits.hbm, limits.ici) == pytest.approx((0.02, 0.03, 0.06))
    assert limits.bound == "ICI" and limits.seconds == limits.ici
    assert limits.serial_seconds == pytest.approx(0.11)
    assert utilisation(256 * 197e12 * 0.015, limits.seconds, 256, chip) == pytest.approx(0.25)


# A whole chip's data sheet: bf16 FLOP/s, bytes of HBM, bytes/s of HBM, bytes/s over all links both ways.
@pytest.mark.parametrize(
    "pod, flops, memory, bandwidth, links",
    [
        ("v5e", 197e12, 16e9, 819e9, 400e9),
        ("v5p", 459e12, 95 * 2**30, 2765e9, 1200e9),
        ("v6e", 918e12, 32 * 2**30, 1638e9, 800e9),
        ("tpu7x", 2307e12, 192 * 2**30, 7380e9, 1200e9),
    ],
)
def test_devices_of_a_chip_come_to_its_data_sheet(pod, flops, memory, bandwidth, links):
    chip = CHIPS[pod]
    whole = [chip.flops, chip.memory, chip.bandwidth, chip.link * 4 * chip.dimensions]
    assert [figure * chip.devices_a_chip for figure in whole] == pytest.approx(
        [flops, memory, bandwidth, links]
    )


# NVLink both ways, and an adapter of a DGX node in gigabits.
@pytest.mark.parametrize(
    "kind, flops, memory, bandwidth, nvlink, adapter",
    [
        ("a100", 312e12, 80e9, 2.039e12, 600e9, 200e9),
        ("h100", 989e12, 80e9, 3.35e12, 900e9, 400e9),
        ("h200", 989e12, 141e9, 4.8e12, 900e9, 400e9),
    ],
)
def test_gpus_come_to_their_data_sheets(kind, flops, memory, bandwidth, nvlink, adapter):
    chip = CHIPS[kind]
    assert [chip.flops, chip.memory, chip.bandwidth] == [flops, memory, bandwidth]
    assert [2 * chip.link, 8 * chip.network] == [nvlink, adapter]
