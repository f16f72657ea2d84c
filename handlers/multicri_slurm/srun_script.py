"""What an MPI job's script does about srun: it tries whether that starts ranks, and has TERM reach them. Pure."""

from typing import Final

MPI_FAILED: Final = "MpiFailed"

TRIAL: Final = r"""
multicri_launcher=(@LAUNCHER@)
multicri_instead=(@INSTEAD@)
timeout -k 5 "$((60 + SLURM_JOB_NUM_NODES))" srun --mpi=@TYPE@ --job-name=multicri-mpi --cpu-bind=none \
  --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 echo up < /dev/null > trial &
wait $!
if [ "$(grep -c '^up$' trial)" != "$SLURM_JOB_NUM_NODES" ] && [ -z "$multicri_signalled" ]; then
  if [ "${#multicri_instead[@]}" = 0 ]; then
    echo 'multicri: the annotation slurm.multicri.io/mpi: mpirun is the other way' >&2
    multicri_finish 1 @FAILED@
  elif ! command -v mpirun > /dev/null; then
    echo 'multicri: nor is there mpirun in PATH: load it in CLUSTER_CONFIG' >&2
    multicri_finish 1 @FAILED@
  fi
  echo 'multicri: srun --mpi=@TYPE@ does not work on the nodes of this job: mpirun starts the ranks' >> stderr
  multicri_launcher=("${multicri_instead[@]}")
fi
""".replace("@FAILED@", MPI_FAILED)
"""A type that Slurm names may want a library that nodes lack: then srun ends with an error, its tasks are killed where
others have it, or the step hangs. So one that does next to nothing is tried on all nodes first. Its exit code tells
nothing: it is that of the tasks which did begin (seen with 24.11).
"""

TERM_BY_SLURM: Final = r"""  if [ "${multicri_launcher[0]}" = srun ] &&
    squeue -h -s -j "$SLURM_JOB_ID" -o %i | grep -q '[.][0-9]'; then
    scancel --signal=TERM "$SLURM_JOB_ID" # to the tasks of its steps, but not to this script
  else
    kill -TERM "$(head -n 1 process)"
  fi
"""
"""Of a TERM of its own, srun kills its tasks (seen with 24.11). While it has none yet, scancel says nothing."""
