"""Plans: the programs of a config compiled for a pod, with their memory, communication and roofline."""

import dataclasses
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from experiments.planning import programs
from experiments.planning.compilation import Compiled, compile_program
from experiments.planning.hlo import Collective, Program
from experiments.planning.programs import FindConfig, Traced
from experiments.planning.roofline import roofline, utilisation, wire_bytes
from experiments.planning.topology import Topology
from muse_jax.sampling import without_reports
from muse_jax.sharding.partitioning import make_mesh

CODE_ROOM = 1e9  # bytes reserved for machine code of unknown size; the largest known has 0.73 GB


@dataclass(frozen=True)
class Plan:
    """A program on a topology. Bytes and times are per device, FLOPs and images are totals.

    Measured by the compiler: `fits` and the bytes of memory. If `code_bytes` is nan, the machine code was not
    completed: `needed` excludes it and `fits` reserves `CODE_ROOM` for it. Counted in the program: `flops`
    (including recomputation, with the cheapest branch of each condition), `model_flops` (without
    recomputation), and `collectives` (for each kind the number of executions and the bytes that a device
    receives, with loops multiplied out). Estimated: `hbm_bytes` and the times, at peak rates.
    """

    name: str
    program: str
    topology: str
    chips: int
    devices: int
    mesh: dict[str, int]
    remat: bool | None
    accumulate: int
    batch_size: int
    parameters: int
    frozen_parameters: int
    flops: float
    model_flops: float
    memory: float
    fits: bool
    needed: float = math.nan
    argument_bytes: float = math.nan
    temporary_bytes: float = math.nan
    code_bytes: float = math.nan
    hbm_bytes: float = math.nan
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    mxu_seconds: float = math.nan
    hbm_seconds: float = math.nan
    ici_seconds: float = math.nan
    seconds: float = math.nan
    serial_seconds: float = math.nan
    bound: str = ""
    utilisation: float = math.nan
    images_per_second: float = math.nan
    compile_seconds: float = math.nan
    notes: tuple[str, ...] = ()


def plan_train(
    name: str,
    config: Any,
    topology: Topology,
    find_config: FindConfig,
    code_seconds: float = math.inf,
) -> Plan:
    """Plans the train step of a config on its mesh over the whole topology.

    Args:
      name: of the config, for the table.
      config: complete, from `validate_config`.
      topology: the devices.
      find_config: see `planned`.
      code_seconds: see `compile_program`.

    Raises:
      ValueError: the mesh or the batch does not fit the topology, or a tokenizer neither exists nor has a
        config of its name.
    """
    mesh = make_mesh(config.mesh, list(topology.devices))
    with programs.planned(config, find_config) as described:
        traced = programs.trace_train(described, mesh)
    return _plan(name, "train", config, topology, mesh, traced, code_seconds)


def plan_generate(
    name: str,
    config: Any,
    superres: Any,
    topology: Topology,
    find_config: FindConfig,
    code_seconds: float = math.inf,
) -> Plan:
    """Plans a pipeline's program from text to `config.data.batch_size` images, with all stages.

    `superres` is the config of the second stage, or None; see `plan_train` for the other arguments.
    """
    mesh = make_mesh(config.mesh, list(topology.devices))
    with without_reports(), programs.planned(config, find_config) as base:
        if superres is None:
            traced = programs.trace_generate(base, None, mesh)
        else:
            with programs.planned(superres, find_config) as second:
                traced = programs.trace_generate(base, second, mesh)
        return _plan(name, "generate", config, topology, mesh, traced, code_seconds)


def plan_embed(
    name: str, config: Any, superres: Any, topology: Topology, code_seconds: float = math.inf
) -> Plan:
    """Plans the embedding of the images that `plan_generate` makes, for their FID; arguments as there."""
    mesh = make_mesh(config.mesh, list(topology.devices))
    traced = programs.trace_embed(config, superres, mesh)
    return _plan(name, "embed", config, topology, mesh, traced, code_seconds)


def _plan(
    name: str,
    program: str,
    config: Any,
    topology: Topology,
    mesh: Mesh,
    traced: Traced,
    code_seconds: float,
) -> Plan:
    chip = topology.chip
    plan = Plan(
        name=name,
        program=program,
        topology=topology.name,
        chips=len(topology.devices) // chip.devices_a_chip,
        devices=len(topology.devices),
        mesh={axis: int(size) for axis, size in mesh.shape.items()},
        remat=config.model.get("remat"),
        accumulate=config.optim.accumulate if program == "train" else 1,
        batch_size=config.data.batch_size,
        parameters=traced.parameters,
        frozen_parameters=traced.frozen,
        flops=traced.flops,
        model_flops=traced.model_flops,
        memory=chip.memory,
        fits=True,
    )
    began = time.perf_counter()
    try:
        compiled = compile_program(traced.lower(), code_seconds)
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory(str(error))
        if needed is None:
            raise
        return dataclasses.replace(plan, fits=False, needed=needed)
    spent = time.perf_counter() - began
    return analyse(dataclasses.replace(plan, compile_seconds=spent), compiled, topology, mesh)


def analyse(plan: Plan, compiled: Compiled, topology: Topology, mesh: Mesh) -> Plan:
    """Completes a plan from the compiled program."""
    needed = compiled.argument_bytes + compiled.temporary_bytes + compiled.fresh_bytes
    notes: tuple[str, ...] = ()
    room = plan.memory
    if math.isnan(compiled.code_bytes):
        notes += ("The machine code was not completed: the peak excludes it.",)
        room -= CODE_ROOM
    else:
        needed += compiled.code_bytes
    plan = dataclasses.replace(
        plan,
        argument_bytes=compiled.argument_bytes,
        temporary_bytes=compiled.temporary_bytes,
        code_bytes=compiled.code_bytes,
        needed=needed,
        fits=needed <= room,
    )
    traffic = Program(compiled.text, plan.devices).total()
    if traffic.unknown_loops:
        notes += (f"{traffic.unknown_loops} loops with an unknown trip count are counted once.",)
    return _timed(plan, topology, mesh, traffic.collectives, traffic.hbm_bytes, notes)


def _timed(
    plan: Plan,
    topology: Topology,
    mesh: Mesh,
    collectives: Counter[Collective],
    hbm_bytes: float,
    notes: tuple[str, ...],
) -> Plan:
    coordinates = [topology.coordinates(device) for device in mesh.devices.flat]
    limits = roofline(
        topology.chip,
        plan.devices,
        plan.flops,
        hbm_bytes,
        list(collectives.items()),
        topology.sides,
        coordinates,
    )
    kinds: dict[str, dict[str, float]] = {}
    for collective, times in collectives.items():
        kind = kinds.setdefault(collective.kind, {"count": 0, "bytes": 0.0})
        kind["count"] += times
        kind["bytes"] += times * wire_bytes(collective)
    return dataclasses.replace(
        plan,
        hbm_bytes=hbm_bytes,
        collectives=kinds,
        mxu_seconds=limits.mxu,
        hbm_seconds=limits.hbm,
        ici_seconds=limits.ici,
        seconds=limits.seconds,
        serial_seconds=limits.serial_seconds,
        bound=limits.bound,
        utilisation=utilisation(plan.model_flops, limits.seconds, plan.devices, topology.chip),
        images_per_second=plan.batch_size / limits.seconds,
        notes=notes,
    )


def out_of_memory(message: str) -> float | None:
    """Bytes of HBM that a program needs, from the compiler's message; None for any other message."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    if found is None:
        return math.nan if "RESOURCE_EXHAUSTED" in message else None
    return float(found.group(1)) * 1024 ** " KMGT".index(found.group(2) or " ")


def plan_until_it_fits(
    name: str,
    config: Any,
    topology: Topology,
    find_config: FindConfig,
    code_seconds: float = math.inf,
) -> Plan:
    """Plans the train step, doubling `config.optim.accumulate` until it fits.

    If even one image per device does not fit, the result is the last plan.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    while True:
        plan = plan_train(name, config, topology, find_config, code_seconds)
        each = config.data.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
        if plan.fits or each % (2 * config.optim.accumulate):
            return plan
        config.optim.accumulate *= 2


def choices(config: Any, devices: int) -> Iterator[Any]:
    """Yields `config` with every mesh that covers the devices and divides its batch, with and without remat.

    The tensor axis is at most 8, since networks seldom have more heads to divide.
    """
    sizes = [2**n for n in range(devices.bit_length()) if devices % 2**n == 0]
    remats = (False, True) if "remat" in config.model else (None,)
    for fsdp, tensor, remat in itertools.product(sizes, (1, 2, 4, 8), remats):
        data = devices // (fsdp * tensor)
        if data * fsdp * tensor != devices or config.data.batch_size % (data * fsdp):
            continue
        choice = ml_collections.ConfigDict(config.to_dict())
        choice.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
        if remat is not None:
            choice.model.remat = remat
        yield choice


def rank(plan: Plan) -> tuple[bool, float, float]:
    """Sort key: plans that fit come first, by images per second, then by the time without overlap."""
    needed = math.inf if math.isnan(plan.needed) else plan.needed
    return not plan.fits, -plan.images_per_second if plan.fits else needed, plan.serial_seconds
