"""Block sizes of the Pallas kernels: the table `tuning.json` by platform, device kind and kernel.

`experiments/tune_kernels.py` measures them on the current device and writes the table. Other device kinds get
the platform's "default", which was estimated and not timed.

TPU: `scores`, maximum number of scores that a step holds in VMEM. GPU: `tile`, queries per program (keys, for
the gradient of the keys); `chunk`, positions of the other side per loop step; `warps`; `stages` of the loop's
pipeline. All but `stages` are powers of two.
"""

import functools
import json
from pathlib import Path

import jax

TABLE = Path(__file__).with_name("tuning.json")

Settings = dict[str, int]


@functools.cache
def read_table() -> dict[str, dict[str, dict[str, Settings]]]:
    """Reads the table: platform -> device kind -> kernel -> settings."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def device_kind() -> str:
    """Device kind of the current mesh, or else of the default device, such as "TPU v5 lite"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.local_devices()[0].device_kind if device is None else device.device_kind


def settings(platform: str, kernel: str) -> Settings:
    """Settings of `kernel` ("forward" or "backward") for this device of `platform` ("tpu" or "gpu")."""
    kinds = read_table()[platform]
    return kinds.get(device_kind(), kinds["default"])[kernel]
