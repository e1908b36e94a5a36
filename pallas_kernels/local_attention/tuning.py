"""Block sizes of the Pallas kernels: a small table, `tuning.json`, by platform, device kind and kernel.

`experiments/tune_kernels.py` measures them on the device at hand and writes them. A device kind that the
table lacks gets the platform's "default", which was reasoned, not timed.

TPU: `scores`, the most score entries that a step holds in VMEM. GPU: `tile`, queries (or, for the gradients
of keys, keys) a program; `chunk`, places of the other side that it takes at a time; `warps`; `stages` of the
loop's pipeline. All but `stages` are powers of two.
"""

import functools
import json
from pathlib import Path

import jax

TABLE = Path(__file__).with_name("tuning.json")

Settings = dict[str, int]


@functools.cache
def read_table() -> dict[str, dict[str, dict[str, Settings]]]:
    """The table of settings: platform -> device kind -> kernel -> settings."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def device_kind() -> str:
    """As "TPU v5 lite" or "NVIDIA H100 80GB HBM3": of the mesh that is set, or else of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.local_devices()[0].device_kind if device is None else device.device_kind


def settings(platform: str, kernel: str) -> Settings:
    """The settings of `kernel`, "forward" or "backward", on this device of `platform`, "tpu" or "gpu"."""
    kinds = read_table()[platform]
    return kinds.get(device_kind(), kinds["default"])[kernel]
