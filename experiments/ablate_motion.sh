#!/usr/bin/env bash
# Trains small forms of configs/motion/nuwa*.py for equally many steps, one after the other, and prints the last validation
# cross-entropies of each: nearby, axial and full attention, the published inputs, text to video alone, and masked tokens. What is
# finished is passed over and what was stopped goes on: run the same command again. It needs the data set (make data) and
# a tokenizer, TOKENIZER (RUNS/motion/vqgan64).
#
#   bash experiments/ablate_motion.sh [RUNS] [NAMES...]     all of them without NAMES
set -euo pipefail
{ # read whole before it runs, so that editing this file changes nothing that is running
runs=${1:-runs}
shift || true
names=("${@:-}")
[ -n "${names[0]}" ] || names=(nuwa nuwa_axial nuwa_full nuwa_raster nuwa_video_only nuwa_masked)
python=${PYTHON:-.venv/bin/python}
tokenizer=${TOKENIZER:-$runs/motion/vqgan64}
features=$runs/motion/features/ablations

[ -d "$features/validation" ] ||
  "$python" -m experiments.prepare_features --config=configs/motion/nuwa.py --out="$features" --splits=train,validation \
    --config.data.source=motion/common --config.data.data_dir="${DATA_DIR:-data}" --config.tokenizer="$tokenizer"
for name in "${names[@]}"; do
  "$python" -m experiments.train --config="configs/motion/$name.py" --workdir="$runs/motion/ablations/$name" \
    --config.data.features="$features" --config.tokenizer="$tokenizer" --config.model.width=128 --config.model.depth=4 \
    --config.model.mlp_dim=256 --config.total_steps="${STEPS:-300}" --config.preview_every=0 2>&1 | sed -u "s/^/$name: /"
done
for name in "${names[@]}"; do
  echo "$name: $(grep '"eval"' "$runs/motion/ablations/$name/metrics.jsonl" | tail -n 1)"
done
exit
}
