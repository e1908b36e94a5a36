"""Plans of runs on pods: memory, communication and a roofline from ahead-of-time compilation."""

from experiments.planning.chips import CHIPS, Chip
from experiments.planning.jobs import Job, run_job, search
from experiments.planning.plan import (
    Plan,
    choices,
    plan_generate,
    plan_train,
    plan_until_it_fits,
    rank,
)
from experiments.planning.table import describe, markdown_table, markdown_weak_scaling
from experiments.planning.topology import Topology, load_topology

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
