"""Scores the averaged weights of a run over a split and writes one JSON.

python -m experiments.evaluate --workdir=runs/base [--split=heldout_concepts] [--out=scores.json]
"""

import json
from pathlib import Path

import jax
from absl import flags

from experiments import apps
from muse_jax.sharding import distributed
from muse_jax.training import evaluate_run, load_config, validate_config
from muse_jax.training.evaluate import write_scores

WORKDIR: flags.FlagHolder[str] = flags.DEFINE_string(  # type: ignore[assignment]
    "workdir", "", "The workdir of a run; its config.json is used where --config is not given."
)
SPLIT = flags.DEFINE_string("split", "", "Instead of config.data.eval_split.")
BATCHES = flags.DEFINE_integer("batches", 0, "Batches to read at most; 0: the whole split.", lower_bound=0)
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the newest by default.")
OUT = flags.DEFINE_string("out", "", "The file to write; WORKDIR/scores_SPLIT.json by default.")


def main() -> None:
    """Checks the flags, scores and writes."""
    if not WORKDIR.value:
        raise ValueError("Give --workdir=DIR, the workdir of a run.")
    given = flags.FLAGS.config or load_config(WORKDIR.value)
    config = validate_config({**given.to_dict(), "eval_batches": BATCHES.value})
    distributed.initialize()
    from muse_jax.system import make_task

    result = evaluate_run(config, make_task(config), WORKDIR.value, SPLIT.value, STEP.value)
    if jax.process_index():
        return
    out = OUT.value or Path(WORKDIR.value) / f"scores_{result['split']}.json"
    write_scores(out, result)
    print(json.dumps(result["scores"]))
    print(f"Written to {out}")


if __name__ == "__main__":
    apps.run(main)
