"""Times and bandwidths against figures worked out by hand."""

import pytest

from muse_jax.planning.chips import CHIPS
from muse_jax.planning.hlo import Collective
from muse_jax.planning.roofline import group_bandwidth, roofline, utilisation, wire_bytes


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
        ("h100", (8,), (8,), 1),
    ],
)
def test_links_that_a_group_has(pod, sides, spanned, links):
    chip = CHIPS[pod]
    assert group_bandwidth(chip, sides, spanned) == links * chip.link


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
