"""Plans: a config's programs compiled for a pod that is not there, and what that says of them."""

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

CODE_ROOM = 1e9  # bytes left for machine code whose size is not known; the largest seen had 0.73


@dataclass(frozen=True)
class Plan:
    """A program on a topology. Bytes and times are of one device, FLOPs and images of all together.

    Measured by the compiler: `fits` and the bytes of memory (where `code_bytes` is nan the machine code was
    not waited for: `needed` is without it, `fits` leaves it `CODE_ROOM`). Counted in the program: `flops`
    (what is recomputed included; of a condition the cheapest branch), `model_flops` (without that),
    `collectives`: for each kind how often it runs and the bytes a device receives, loops multiplied out.
    Estimates: `hbm_bytes` and the times, which are those of each resource at its peak rate.
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
    """The train step of `config`, called `name`, on its mesh over the whole topology.

    Its machine code is waited for `code_seconds` (see `compile_program`).

    Raises:
      ValueError: one sentence, for a mesh or a batch that does not go with the topology, and for parts that
        neither are there nor can be described.
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
    """The pipeline's program from text to `config.data.batch_size` images, all steps of all stages.

    `superres` is the second stage's config, or None.
    """
    mesh = make_mesh(config.mesh, list(topology.devices))
    with without_reports(), programs.planned(config, find_config) as base:
        if superres is None:
            traced = programs.trace_generate(base, None, mesh)
        else:
            with programs.planned(superres, find_config) as second:
                traced = programs.trace_generate(base, second, mesh)
        return _plan(name, "generate", config, topology, mesh, traced, code_seconds)


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
    """`plan` with what the compiled program tells."""
    needed = compiled.argument_bytes + compiled.temporary_bytes + compiled.fresh_bytes
    notes: tuple[str, ...] = ()
    room = plan.memory
    if math.isnan(compiled.code_bytes):
        notes += ("The machine code was not waited for: its bytes are not in the peak.",)
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
        notes += (f"{traffic.unknown_loops} loops of unknown trip count are counted once.",)
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
    """The bytes that a program wanted of HBM, from the compiler's refusal; None for another error."""
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
    """The train step with the fewest microbatches (a power of two, from `config.optim.accumulate`) that fits.

    Where even one image a device at a time does not fit, the last plan that was tried.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    while True:
        plan = plan_train(name, config, topology, find_config, code_seconds)
        each = config.data.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
        if plan.fits or each % (2 * config.optim.accumulate):
            return plan
        config.optim.accumulate *= 2


def choices(config: Any, devices: int) -> Iterator[Any]:
    """`config` with every mesh that covers the devices and splits its batch, remat on and off.

    The tensor axis takes at most 8: more heads than that are seldom there to split.
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
    """To sort by: what fits first, by images a second; of equals what would be faster without overlap."""
    needed = math.inf if math.isnan(plan.needed) else plan.needed
    return not plan.fits, -plan.images_per_second if plan.fits else needed, plan.serial_seconds
