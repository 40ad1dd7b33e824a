#!/bin/bash
# One batch over the tasks of an array job:  sbatch docs/scale/slurm.sh scenes.yaml -o /shared/scenes/ --seed 1
#SBATCH --job-name=scenes
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
# begins no job in the last half hour; a task that is started again goes on with what its job folders hold
exec ltx2 batch "$@" --shard auto --max-time 3h30m
