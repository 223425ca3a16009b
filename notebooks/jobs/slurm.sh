#!/bin/bash
# Both stages of a recipe on a Slurm cluster; a job that is requeued goes on where it was interrupted.
#
#     sbatch --nodes 1 notebooks/jobs/slurm.sh qwen3-0.6b-8gpu
#     PARALLEL="--use_fsdp --fsdp_version 2" sbatch --nodes 2 notebooks/jobs/slurm.sh qwen3-0.6b-8gpu   # weights in shards
#SBATCH --job-name=bitembed
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=48:00:00
#SBATCH --requeue
set -euo pipefail
export recipe=${1:?name a recipe of workbench/recipes/presets.py}
export gpus=${SLURM_GPUS_ON_NODE:?run this with sbatch}
export parallel=${PARALLEL:---multi_gpu}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts%%$'\n'*}

stage() {  # notebook, run folder
    export notebook=$1 resume=""
    [ -f "$2/config.json" ] && resume=--resume
    # One task a node; accelerate starts a process for each of its GPUs.
    srun --export=ALL bash -c 'accelerate launch $parallel --num_machines "$SLURM_NNODES" \
        --num_processes $((SLURM_NNODES * gpus)) --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$MASTER_ADDR" --main_process_port 29500 --mixed_precision no --dynamo_backend no \
        "$notebook" --recipe "$recipe" $resume'
}

stage notebooks/pretrain.py "runs/$recipe/pretrain"
stage notebooks/distill.py "runs/$recipe/distill"
