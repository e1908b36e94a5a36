"""How much one step of a Pallas kernel takes on: a small table by device kind, made by a script.

`experiments/tune_kernels.py` measures and writes `tuning.json`. A device kind that it lacks gets "default",
which holds for any TPU: every size in `shapes.py` compiles inside VMEM with it.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax

TABLE = Path(__file__).with_name("tuning.json")


@functools.cache
def read_table() -> dict[str, dict[str, Any]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def device_kind() -> str:
    """The kind of the default device, as "TPU v5 lite" or "NVIDIA H100 80GB HBM3"."""
    return jax.local_devices()[0].device_kind


def max_scores(kernel: str) -> int:
    """The most scores that one step of `kernel` ("forward" or "backward") holds on this device."""
    table = read_table()
    return table.get(device_kind(), {}).get(kernel) or table["default"][kernel]
