#!/usr/bin/env bash
# Trains every stage of the shipped checkpoint "emoji" in order and exports it. Running the command again skips
# finished stages and resumes a stopped one. The data set must have been built (make data).
#
#   bash experiments/train_emoji.sh cpu [RUNS]   as shipped: about four hours on two cores, estimated from speeds
#   bash experiments/train_emoji.sh gpu [RUNS]   the same networks (the base twice as deep), larger batches, bf16
set -euo pipefail
device=${1:?"give cpu or gpu"}
runs=${2:-runs}
python=${PYTHON:-.venv/bin/python}

case $device in
  cpu) vqgan=() decoder=() base=() superres=() ;;
  gpu)
    vqgan=(--config.data.batch_size=64 --config.data.workers=12 --config.total_steps=20000)
    decoder=(--config.data.batch_size=64 --config.data.workers=12 --config.total_steps=5000)
    base=(--config.model.depth=8 --config.data.batch_size=256 --config.total_steps=30000)
    superres=(--config.data.batch_size=128 --config.total_steps=20000)
    base+=(--config.model.dtype=bfloat16) superres+=(--config.model.dtype=bfloat16)
    ;;
  *) echo "The first argument is $device: give cpu or gpu." >&2 && exit 2 ;;
esac

train() { "$python" -m experiments.train --config="configs/emoji/$1.py" --workdir="$runs/$1" "${@:2}"; }
features() {
  [ -d "$runs/features/$1/heldout_pairs" ] ||
    "$python" -m experiments.prepare_features --config="configs/emoji/$1.py" --out="$runs/features/$1" "${@:2}"
}
decoder() { train "$1_decoder" --config.tokenizer="$runs/$1" --config.init_from="$runs/$1" "${@:2}"; }
low=(--config.tokenizer="$runs/vqgan64_decoder")
both=("${low[@]}" --config.superres_tokenizer="$runs/vqgan128_decoder")

train vqgan64 "${vqgan[@]}"
train vqgan128 "${vqgan[@]}"
decoder vqgan64 "${decoder[@]}"
decoder vqgan128 "${decoder[@]}"
features base "${low[@]}"
train base "${low[@]}" --config.data.features="$runs/features/base" "${base[@]}"
features superres "${both[@]}"
train superres "${both[@]}" --config.data.features="$runs/features/superres" "${superres[@]}"
"$python" -m experiments.export --run="$runs/base" --run="$runs/superres" --out=muse_jax/checkpoints/emoji
