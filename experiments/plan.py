"""Plans a run for a pod or a GPU node: memory, communication and a roofline.

python -m experiments.plan --config=configs/muse/base_3b.py --topology=v5e:16x16
python -m experiments.plan --config=configs/muse/base_3b.py --topology=v5e:16x16 --search
python -m experiments.plan --config=configs/muse/base_3b.py --superres=configs/muse/superres_268m.py \
    --program=generate --topology=v6e:4x4 --config.data.batch_size=16
python -m experiments.plan --all      every paper-size config on every pod of docs/scale.md

The real programs are compiled for the pod by libtpu's compiler (pip install -e '.[plan]') or, for nodes of
GPUs (--topology=h100:8x8), by that of JAX's CUDA plugin (make gpu-compiler). No weights are read.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from experiments import apps
from experiments.planning.chips import CHIPS
from experiments.planning.jobs import Job, run_job, search
from experiments.planning.plan import Plan
from experiments.planning.table import describe, markdown_table, markdown_weak_scaling
from muse_jax.training import validate_config

TOPOLOGY = flags.DEFINE_string("topology", "", "GENERATION:SIDES in chips, such as v5e:16x16 or h100:8x8.")
PROGRAM = flags.DEFINE_enum(
    "program", "train", ["train", "generate", "embed"], "Which program to plan; embed is the FID's."
)
SUPERRES = flags.DEFINE_string(
    "superres", "", "For generate and embed: config file of the second stage, if the pipeline has one."
)
SEARCH = flags.DEFINE_bool("search", False, "Try every mesh, with and without remat, and rank them.")
ALL = flags.DEFINE_bool("all", False, "Plan all paper-size configs on all pods, and write docs/scale.md.")
OUT = flags.DEFINE_string("out", "", "File for the plans, as one line of JSON each; none by default.")

PODS = (
    "v5e:16x16",
    "v5p:4x4x4",
    "v6e:8x8",
    "tpu7x:4x4x4",
    "v5e:8x8",
    "v5p:4x8x8",
    "v6e:16x16",
    "tpu7x:2x2x4",
)
WEAK_PODS = ("v5p:2x2x2", "v5p:4x4x4", "v5p:4x8x8", "v5p:8x8x8")
GPU_PODS = ("h100:8x8", "h100:8", "a100:8x8")
PODS_OF = {  # by folder of configs
    "muse": PODS + GPU_PODS,
    "cogview2": PODS[:2] + GPU_PODS[:2],
    "nuwa": ("v5e:8x8", "v5e:16x16"),
}
# Stages of the generate program: the base network, with T5-XXL, and super-resolution.
PIPELINE = ("configs/muse/base_3b.py", "configs/muse/superres_268m.py")
# NUWA's network, with T5-base and the tokenizer, fits a chip, which generates one video at a time.
VIDEO_PIPELINE, VIDEO_PODS = "configs/nuwa/base_870m.py", ("v5e:2x2", "v5e:4x4")
SCALE, ROWS = Path("docs/scale.md"), Path("docs/scale.jsonl")


def main() -> None:
    """Checks the flags, plans, prints and writes."""
    if ALL.value:
        plan_all()
        return
    if not flags.FLAGS.config or not TOPOLOGY.value:
        raise ValueError(
            "Give --config=FILE and --topology=POD, for instance configs/muse/base_3b.py and v5e:16x16."
        )
    config = validate_config(flags.FLAGS.config)
    superres = validate_config(apps.load_config_file(SUPERRES.value)) if SUPERRES.value else None
    job = Job(config_name(), PROGRAM.value, TOPOLOGY.value, config, find_config, superres)
    plans = search(job) if SEARCH.value else [run_job(job)]
    print(describe(plans[0]))
    print(markdown_table(plans))
    if OUT.value:
        Path(OUT.value).write_text("".join(json.dumps(dataclasses.asdict(plan)) + "\n" for plan in plans))


def config_name() -> str:
    """The stem of the file given by --config."""
    given = next(arg for arg in sys.argv if arg.lstrip("-").partition("=")[0] == "config")
    file = given.partition("=")[2] or sys.argv[sys.argv.index(given) + 1]
    return Path(file.partition(":")[0]).stem


def find_config(name: str) -> Any:
    """Config of the file `name` in any folder of configs; None if there is none."""
    files = sorted(Path("configs").glob(f"*/{name}.py"))
    return apps.load_config_file(str(files[0])) if files else None


def plan_all() -> None:
    """Plans the missing rows of docs/scale.jsonl one by one and updates the tables after each."""
    done = {}
    if ROWS.exists():
        for line in ROWS.read_text().splitlines():
            row = json.loads(line)
            done[row["key"]] = row
    rows = list(all_rows())
    for key, table, job in rows:
        if key not in done:
            print(table, job.name, job.topology, file=sys.stderr, flush=True)
            done[key] = {"key": key, "table": table, **dataclasses.asdict(run_job(job))}
            with ROWS.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
        write_tables([done[key] for key, _, _ in rows if key in done])


def all_rows() -> Iterator[tuple[str, str, Job]]:
    """Yields (a key that depends on the config, the table, the job) for every row."""
    files = [file for folder in PODS_OF for file in sorted(Path(f"configs/{folder}").glob("[!_]*.py"))]
    configs = {file: validate_config(apps.load_config_file(str(file))) for file in files}
    base, superres = (validate_config(apps.load_config_file(file)) for file in PIPELINE)
    for pod in WEAK_PODS:
        config = ml_collections.ConfigDict(base.to_dict())
        config.data.batch_size = 2 * _devices(pod)
        config.mesh.update(data=1, fsdp=-1, tensor=1)
        yield _key(base, pod, "weak"), "weak", Job("base_3b", "train", pod, config, find_config)
    for file, config in configs.items():
        for pod in PODS_OF[file.parent.name]:
            job = Job(file.stem, "train", pod, _fitted(config, pod), find_config, until_it_fits=True)
            yield _key(job.config, pod), "train", job
    for pod in PODS + GPU_PODS:
        config = _fitted(base, pod)
        config.data.batch_size = _devices(pod)
        job = Job("t5_xxl+3b+268m", "generate", pod, config, find_config, superres)
        yield _key(base, pod, superres), "generate", job
        if pod == PODS[0]:
            embed = Job("inception", "embed", pod, config, find_config, superres)
            yield _key(base, pod, superres, "embed"), "generate", embed
    for pod in VIDEO_PODS:
        config = ml_collections.ConfigDict(configs[Path(VIDEO_PIPELINE)].to_dict())
        config.data.batch_size = _devices(pod)
        config.mesh.update(data=-1, fsdp=1, tensor=1)
        job = Job("base_870m", "generate", pod, config, find_config)
        yield _key(config, pod, "generate"), "generate", job


def _fitted(config: Any, pod: str) -> Any:
    """`config` with weights sharded over at most the eight GPUs of a node."""
    config = ml_collections.ConfigDict(config.to_dict())
    if pod in GPU_PODS:
        config.mesh.fsdp = min(config.mesh.fsdp, 8)
    return config


def _devices(pod: str) -> int:
    """Number of JAX devices in a pod, from its name."""
    kind, _, sides = pod.partition(":")
    return CHIPS[kind].devices_a_chip * math.prod(int(side) for side in sides.split("x"))


def _key(config: Any, pod: str, *more: Any) -> str:
    text = " ".join(each.to_json() if hasattr(each, "to_json") else str(each) for each in (config, *more))
    return f"{pod} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write_tables(rows: list[dict[str, Any]]) -> None:
    """Replaces the tables between the markers of docs/scale.md."""
    text = SCALE.read_text()
    plans: dict[str, list[Plan]] = {"train": [], "generate": [], "weak": []}
    for row in rows:
        fields = {name: value for name, value in row.items() if name not in ("key", "table")}
        plans[row["table"]].append(Plan(**fields))
    tables = {name: markdown_table(plans[name]) for name in ("train", "generate")}
    tables["weak"] = markdown_weak_scaling(plans["weak"])
    for name, table in tables.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        text = before + start + table + "\n" + end + after
    SCALE.write_text(text)


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; finished rows are kept.")
