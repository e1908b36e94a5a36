#!/usr/bin/env bash
# Trains every stage of the shipped checkpoint "emoji" in order and exports it. Stages already finished are
# passed over, and one that was stopped goes on: run the same command again.
#
#   bash experiments/train_emoji.sh [RUNS] [--config.x=y overrides for every training stage]
#
# On a GPU, larger batches and more steps of the same networks take minutes:
#   bash experiments/train_emoji.sh runs --config.data.batch_size=256
set -euo pipefail
runs=${1:-runs}
shift || true
python=${PYTHON:-.venv/bin/python}
train() { "$python" -m experiments.train --config="configs/emoji/$1.py" --workdir="$runs/$1" "${@:2}"; }
features() {
  [ -d "$runs/features/$1/train" ] ||
    "$python" -m experiments.prepare_features --config="configs/emoji/$1.py" --out="$runs/features/$1" "${@:2}"
}

train vqgan64 "$@"
train vqgan128 --config.init_from="$runs/vqgan64" "$@"
features base --config.tokenizer="$runs/vqgan64"
train base --config.tokenizer="$runs/vqgan64" --config.data.features="$runs/features/base" "$@"
tokenizers=(--config.tokenizer="$runs/vqgan64" --config.superres_tokenizer="$runs/vqgan128")
features superres "${tokenizers[@]}"
train superres "${tokenizers[@]}" --config.data.features="$runs/features/superres" "$@"
"$python" -m experiments.export --base="$runs/base" --superres="$runs/superres" --out=muse_jax/checkpoints/emoji
