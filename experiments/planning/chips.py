"""Peak rates of accelerators, from the manufacturers' data sheets.

Sources: TPUs, the system architecture pages v5e, v5p, v6e and tpu7x of docs.cloud.google.com/tpu/docs; GPUs,
NVIDIA's data sheets of the SXM parts and of its DGX nodes. Peak FLOP/s are `muse_jax.training.flops.PEAKS`.
"""

from dataclasses import dataclass

from muse_jax.training.flops import PEAKS


@dataclass(frozen=True)
class Chip:
    """Figures of one JAX device, which is a whole chip unless `devices_a_chip` is 2.

    kind: its name in `PEAKS`.
    memory: bytes of HBM.
    bandwidth: bytes of HBM per second.
    link: bytes per second of one link in one direction; a TPU has two links for each dimension of its torus,
      a GPU has one to the switch of its node.
    dimensions: number of dimensions of the torus; 0 for GPUs in nodes.
    ring: sides that are a multiple of this are closed to a ring; others are lines, with half the bandwidth.
    devices_a_chip: number of JAX devices per chip.
    network: bytes per second, in one direction, of each GPU's adapter to the other nodes.
    """

    kind: str
    memory: float
    bandwidth: float
    link: float
    dimensions: int
    ring: int = 1
    devices_a_chip: int = 1
    network: float = 0.0

    @property
    def flops(self) -> float:
        """Peak dense bfloat16 FLOP/s."""
        return PEAKS[self.kind]


_GIB = 2.0**30
# The bandwidth of a link is "bidirectional ICI bandwidth per chip" divided by two directions and all links.
CHIPS = {
    "v5e": Chip("TPU v5e", 16e9, 819e9, 400e9 / 2 / 4, dimensions=2, ring=16),
    "v5p": Chip("TPU v5p", 95 * _GIB, 2765e9, 1200e9 / 2 / 6, dimensions=3, ring=4),
    "v6e": Chip("TPU v6", 32 * _GIB, 1638e9, 800e9 / 2 / 4, dimensions=2, ring=16),
    # JAX presents each of the two chiplets as a device; they share the chip's links.
    "tpu7x": Chip(
        "TPU7x", 192 * _GIB / 2, 7380e9 / 2, 1200e9 / 2 / 6 / 2, dimensions=3, ring=4, devices_a_chip=2
    ),
    # Eight InfiniBand adapters per node: NVLink 3 and HDR for A100, NVLink 4 and NDR for H100 and H200.
    "a100": Chip("A100", 80e9, 2.039e12, 600e9 / 2, dimensions=0, network=200e9 / 8),
    "h100": Chip("H100", 80e9, 3.35e12, 900e9 / 2, dimensions=0, network=400e9 / 8),
    "h200": Chip("H200", 141e9, 4.8e12, 900e9 / 2, dimensions=0, network=400e9 / 8),
}
