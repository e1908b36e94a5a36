"""Multi-process runs: initialization and collective decisions."""

import glob
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TIMEOUT = 300
"""Seconds that processes wait for each other."""


def initialize() -> None:
    """Initializes `jax.distributed` if the environment describes several processes.

    Call it once, before any other use of JAX; afterwards `jax.devices()` covers all processes. It looks, in
    this order, for
      - JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID, set by hand;
      - a Slurm step of several tasks (`srun`) with one GPU per task, or the GPUs of its host that
        JAX_LOCAL_DEVICE_IDS=0,1,... lists;
      - the hosts of one or several TPU pod slices, from Google Cloud's metadata or GKE's variables.

    Raises:
      ValueError: if an explicit setting is incomplete or wrong, the processes do not find each other, or a
        device is in use already.
    """
    arguments = process_arguments(os.environ, has_tpu())
    if arguments is None or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=TIMEOUT)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
        raise ValueError(
            f"The processes of this run could not be joined ({reason}): start all of them within {TIMEOUT} s "
            "and let each reach the coordinator's port."
        ) from error


def has_tpu() -> bool:
    """True if this host has TPU chips and libtpu."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def process_arguments(environment: Mapping[str, str], tpu: bool) -> dict[str, Any] | None:
    """Arguments for `jax.distributed.initialize`; None for a single process.

    Args:
      environment: environment variables.
      tpu: True on a host with TPUs, see `has_tpu`.

    Raises:
      ValueError: if an explicit setting is incomplete or wrong.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if any(environment.get(name) for name in EXPLICIT):
        return _explicit(environment)
    if _number(environment, "SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in environment:
        return {}
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1 or _number(environment, "MEGASCALE_NUM_SLICES", 1) > 1:
        return {}
    if tpu and "TPU_SKIP_MDS_QUERY" not in environment and platforms in ("", "tpu", "tpu,cpu"):
        return {}  # the hosts of a pod find each other through the metadata server
    return None


def _explicit(environment: Mapping[str, str]) -> dict[str, Any]:
    missing = [name for name in EXPLICIT if not environment.get(name)]
    if missing:
        given = [name for name in EXPLICIT if name not in missing]
        raise ValueError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not: set all three, in every process, or none."
        )
    address = environment["JAX_COORDINATOR_ADDRESS"]
    count, index = (_number(environment, name, 0) for name in EXPLICIT[1:])
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}, but must be HOST:PORT, for instance node0:1234."
        )
    if not 0 <= index < count:
        raise ValueError(
            f"JAX_PROCESS_ID is {index} and JAX_NUM_PROCESSES {count}: ids go from 0 to {count - 1}."
        )
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, but must be a whole number.") from None


def all_processes(here: bool) -> bool:
    """True if `here` is true on every process; a collective call."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))
