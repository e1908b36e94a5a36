"""What one accelerator can do, from its maker's data sheet.

Sources: TPUs, the system architecture pages v5e, v5p, v6e and tpu7x of docs.cloud.google.com/tpu/docs; GPUs,
NVIDIA's data sheets of the SXM parts and of its DGX nodes. Peak FLOP/s are `muse_jax.training.flops.PEAKS`.
"""

from dataclasses import dataclass

from muse_jax.training.flops import PEAKS


@dataclass(frozen=True)
class Chip:
    """Figures of one JAX device, which is a whole chip but for `devices_a_chip` of 2.

    kind: its name in `PEAKS`.
    memory: bytes of HBM; bandwidth: bytes a second.
    link: bytes a second that one link carries one way; a TPU has two links for each dimension of its torus,
        a GPU one to the switch of its node.
    dimensions: of the torus, 0 for GPUs in nodes.
    network: bytes a second, one way, of each GPU's own adapter to the other nodes.
    ring: sides that are a multiple of this are closed to a ring; others are lines, with half the bandwidth.
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
# A link's bandwidth is the page's "bidirectional ICI bandwidth per chip" over two ways and all links.
CHIPS = {
    "v5e": Chip("TPU v5e", 16e9, 819e9, 400e9 / 2 / 4, dimensions=2, ring=16),
    "v5p": Chip("TPU v5p", 95 * _GIB, 2765e9, 1200e9 / 2 / 6, dimensions=3, ring=4),
    "v6e": Chip("TPU v6", 32 * _GIB, 1638e9, 800e9 / 2 / 4, dimensions=2, ring=16),
    # JAX sees each of a chip's two chiplets as a device; the chip's links are shared between them.
    "tpu7x": Chip(
        "TPU7x", 192 * _GIB / 2, 7380e9 / 2, 1200e9 / 2 / 6 / 2, dimensions=3, ring=4, devices_a_chip=2
    ),
    # NVLink 3 and eight HDR InfiniBand adapters a node; NVLink 4 and eight NDR ones.
    "a100": Chip("A100", 80e9, 2.039e12, 600e9 / 2, dimensions=0, network=200e9 / 8),
    "h100": Chip("H100", 80e9, 3.35e12, 900e9 / 2, dimensions=0, network=400e9 / 8),
    "h200": Chip("H200", 141e9, 4.8e12, 900e9 / 2, dimensions=0, network=400e9 / 8),
}
