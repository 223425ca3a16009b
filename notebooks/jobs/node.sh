#!/bin/bash
# Both stages of a recipe on all GPUs of one machine; called again, it goes on where it was interrupted.
#
#     bash notebooks/jobs/node.sh qwen3-0.6b-8gpu
#     PARALLEL="--use_fsdp --fsdp_version 2" bash notebooks/jobs/node.sh qwen3-0.6b-8gpu   # weights in shards
set -euo pipefail
recipe=${1:?name a recipe of workbench/recipes/presets.py}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
read -ra parallel <<< "${PARALLEL:---multi_gpu}"

stage() {  # notebook, run folder
    local resume=()
    [ -f "$2/config.json" ] && resume=(--resume)
    accelerate launch "${parallel[@]}" --num_machines 1 --num_processes "$gpus" --mixed_precision no --dynamo_backend no \
        "$1" --recipe "$recipe" "${resume[@]}"
}

stage notebooks/pretrain.py "runs/$recipe/pretrain"
stage notebooks/distill.py "runs/$recipe/distill"
