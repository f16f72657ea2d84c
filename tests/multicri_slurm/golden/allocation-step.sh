#!/bin/bash
# A step may share all that the job has, but cannot ask for more memory than that.
multicri_memory=64
multicri_all=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-0}))}
if [ "$multicri_all" -gt 0 ] && [ "$multicri_memory" -gt "$multicri_all" ]; then
  multicri_memory=$multicri_all
fi
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
exec srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none --mpi=none --kill-on-bad-exit=0 \
  --job-name=web --mem="${multicri_memory}M" bash ./run.sh
