"""Plans as jobs, each in its own process: a single plan, or a search over meshes."""

import multiprocessing
import os
import sys
import threading
from typing import Any, NamedTuple

import jax

from experiments.planning.plan import (
    Plan,
    choices,
    plan_embed,
    plan_generate,
    plan_train,
    plan_until_it_fits,
    rank,
)
from experiments.planning.programs import FindConfig
from experiments.planning.table import markdown_table
from experiments.planning.topology import load_topology
from muse_jax.training.config import validate_config

# Time limit for machine code; a search compiles only its best plan to machine code.
CODE_SECONDS = 300.0


class Job(NamedTuple):
    """A plan to make.

    find_config: see `planned`; a function of a module, since it is pickled by name.
    superres: config of the second stage, or None.
    until_it_fits, code_seconds: see `plan_until_it_fits` and `compile_program`.
    """

    name: str
    program: str
    topology: str
    config: Any
    find_config: FindConfig
    superres: Any = None
    until_it_fits: bool = False
    code_seconds: float = CODE_SECONDS


def search(job: Job) -> list[Plan]:
    """Plans of every mesh, with and without remat, best first; the best is compiled to machine code."""
    _describe_only()
    tried = []
    for choice in choices(job.config, len(load_topology(job.topology).devices)):
        config = validate_config(choice)
        if plan := _attempt(job._replace(config=config, code_seconds=0.0)):
            tried.append((plan, config))
    tried.sort(key=lambda pair: rank(pair[0]))
    while tried and tried[0][0].fits:
        _, config = tried.pop(0)
        best = _attempt(job._replace(config=config))
        if best and best.fits:
            return [best, *(plan for plan, _ in tried)]
    raise ValueError(f"No mesh of {job.topology} fits {job.name}: take more chips or set optim.accumulate.")


def _attempt(job: Job) -> Plan | None:
    """Makes a plan and prints its row; prints the reason and returns None if the compiler fails."""
    try:
        plan = run_job(job)
    except ChildProcessError as error:
        print(f"{dict(job.config.mesh)}: {error}", file=sys.stderr, flush=True)
        return None
    print(markdown_table([plan]).splitlines()[-1], file=sys.stderr, flush=True)
    return plan


def run_job(job: Job) -> Plan:
    """The plan of a job, made in its own process, whose end also ends an abandoned compilation.

    Raises:
      ValueError: as in `plan_train`.
      ChildProcessError: the compiler refuses the program or crashes.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"The process that planned {job.name} on {job.topology} ended with code {process.exitcode}: "
            "-9 means too little memory; otherwise the compiler crashed, see above: try another mesh."
        ) from None
    process.kill()
    if isinstance(answer, jax.errors.JaxRuntimeError):
        why = str(answer).splitlines()[0].rstrip(".")
        raise ChildProcessError(
            f"The compiler refuses {job.name} on {job.topology} ({why}): try another mesh."
        ) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(job: Job, sender: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send(_plan(job))
    except Exception as error:
        sender.send(error)


def _end_with_parent() -> None:
    """Exits when the parent process ends, since nobody would read the answer."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _plan(job: Job) -> Plan:
    _describe_only()
    topology = load_topology(job.topology)
    if job.program == "generate":
        parts = (job.name, job.config, job.superres)
        return plan_generate(*parts, topology, job.find_config, job.code_seconds)
    if job.program == "embed":
        return plan_embed(job.name, job.config, job.superres, topology, job.code_seconds)
    plan = plan_until_it_fits if job.until_it_fits else plan_train
    return plan(job.name, job.config, topology, job.find_config, job.code_seconds)


def _describe_only() -> None:
    """Keeps JAX on the CPU; accelerators are only compiled for."""
    jax.config.update("jax_platforms", "cpu")
