"""What a run would need on a pod, before there is one: memory, communication and a roofline."""

from muse_jax.planning.chips import CHIPS, Chip
from muse_jax.planning.jobs import Job, run_job, search
from muse_jax.planning.plan import (
    Plan,
    choices,
    plan_generate,
    plan_train,
    plan_until_it_fits,
    rank,
)
from muse_jax.planning.table import describe, markdown_table, markdown_weak_scaling
from muse_jax.planning.topology import Topology, load_topology

__all__ = [
    "CHIPS",
    "Chip",
    "Job",
    "Plan",
    "Topology",
    "choices",
    "describe",
    "load_topology",
    "markdown_table",
    "markdown_weak_scaling",
    "plan_generate",
    "plan_train",
    "plan_until_it_fits",
    "rank",
    "run_job",
    "search",
]
