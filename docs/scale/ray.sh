#!/bin/bash
# A Ray cluster over the nodes of a SLURM job, and one batch on it:  sbatch docs/scale/ray.sh scenes.yaml -o /shared/scenes/
#SBATCH --job-name=scenes
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
set -euo pipefail
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # nobody else may use the cluster
export RAY_AUTH_TOKEN

address="$(hostname):${PORT:-6379}"
node=(ray start --num-cpus="$SLURM_CPUS_PER_TASK" --block)
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
"${node[@]}" --head --port="${address##*:}" --include-dashboard=false >ray-head.log 2>&1 &
count() { ray status --address "$address" 2>/dev/null | grep -c node_ || true; } # nodes that are there
until [ "$(count)" -ge 1 ]; do sleep 1; done
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$(hostname)" \
        "${node[@]}" --address="$address" >ray-nodes.log 2>&1 &
fi
until [ "$(count)" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 1; done

ltx2 batch "$@" --engine ray --address "$address" --max-time 3h30m
