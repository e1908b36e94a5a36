#!/usr/bin/env bash
# Trains every stage of the shipped checkpoint "emoji-cogview2" in order and exports it, with the tokenizer that
# experiments/train_emoji.sh trains. Running the command again skips finished stages and resumes a stopped one.
# The data set must have been built (make data).
#
#   bash experiments/train_emoji_cogview2.sh cpu [RUNS]   as shipped
#   bash experiments/train_emoji_cogview2.sh gpu [RUNS]   the same networks, larger batches, bf16
set -euo pipefail
device=${1:?"give cpu or gpu"}
runs=${2:-runs}
python=${PYTHON:-.venv/bin/python}

case $device in
  cpu) coglm=() fine=() ;;
  gpu)
    coglm=(--config.model.dtype=bfloat16 --config.data.batch_size=256 --config.total_steps=20000)
    fine=(--config.model.dtype=bfloat16 --config.data.batch_size=64 --config.total_steps=10000)
    ;;
  *) echo "The first argument is $device: give cpu or gpu." >&2 && exit 2 ;;
esac

features() {
  [ -d "$runs/features/$2/heldout_pairs" ] ||
    "$python" -m experiments.prepare_features --config="configs/emoji/$1.py" --out="$runs/features/$2" "${@:3}"
}
over=(--config.tokenizer="$runs/vqgan64" --config.text_pieces="$runs/text_pieces/emoji.model")
train() {
  "$python" -m experiments.train --config="configs/emoji/$1.py" --workdir="$runs/$1" "${over[@]}" \
    --config.data.features="$runs/features/$2" "${@:3}"
}

[ -f "$runs/text_pieces/emoji.model" ] ||
  "$python" -m experiments.train_text_pieces --source=emoji --pieces=1000 --out="$runs/text_pieces/emoji.model"
[ -f "$runs/vqgan64/clusters.npz" ] ||
  "$python" -m experiments.cluster_codebook --tokenizer="$runs/vqgan64" --clusters=128
"$python" -m experiments.prepare_data --size=192
features coglm coglm "${over[@]}"
train coglm coglm "${coglm[@]}"
features coglm_direct coglm192 "${over[@]}" --config.coglm="$runs/coglm"
train coglm_direct coglm192 --config.coglm="$runs/coglm" --config.init_from="$runs/coglm" "${fine[@]}"
train coglm_iterative coglm192 --config.init_from="$runs/coglm" "${fine[@]}"
"$python" -m experiments.export --run="$runs/coglm" --run="$runs/coglm_direct" \
  --run="$runs/coglm_iterative" --out=muse_jax/checkpoints/emoji-cogview2
