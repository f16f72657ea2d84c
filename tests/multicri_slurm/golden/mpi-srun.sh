#!/bin/bash
#SBATCH --job-name=multicri-c0ffee
#SBATCH --comment=default/pod/main
#SBATCH --chdir=/home/alice/multi-cri/5a4d/c0ffee
#SBATCH --output=/home/alice/multi-cri/5a4d/c0ffee/slurm.out
#SBATCH --no-requeue
#SBATCH --dependency=singleton
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2

multicri_directory=/home/alice/multi-cri/5a4d/c0ffee
multicri_working_dir=/

multicri_finish() { # code reason
  trap - EXIT
  trap '' TERM USR1
  cd "$multicri_directory" || exit "$1"
  printf 'code=%s\nreason=%s\nfinished_ns=%s\nstdout_bytes=%s\nstderr_bytes=%s\njob_id=%s\n' "$1" "$2" \
    "$(date +%s%N)" "$(stat -c %s stdout)" "$(stat -c %s stderr)" "$SLURM_JOB_ID" > exit.tmp && mv exit.tmp exit
  exit "$1"
}
multicri_descendants() { # process
  local child
  for child in $(cat "/proc/$1/task/"*/children 2> /dev/null); do
    echo "$child"
    multicri_descendants "$child"
  done
}
multicri_term() {
  if [ "${multicri_launcher[0]}" = srun ] &&
    squeue -h -s -j "$SLURM_JOB_ID" -o %i | grep -q '[.][0-9]'; then
    scancel --signal=TERM "$SLURM_JOB_ID" # to the tasks of its steps, but not to this script
  else
    kill -TERM "$(head -n 1 process)"
  fi
}
multicri_signal() { # TERM or KILL
  multicri_signalled=$1
  [ -n "$multicri_child" ] || return
  case $1 in
    TERM) multicri_term ;;
    KILL) kill -KILL -- "-$multicri_child" $(multicri_descendants "$multicri_child") ;;
  esac
} 2> /dev/null
multicri_prepare() {
  trap 'multicri_signal TERM' TERM
  trap 'multicri_signal KILL' USR1
  cd "$multicri_directory" || exit 1
  umask 077
}

multicri_child=
multicri_signalled=
multicri_prepare
if ! mkdir claim; then
  [ -d claim ] || exit 1 # mkdir has said why: a full quota, for one
  if [ "$(cat claim/job)" = "$SLURM_JOB_ID" ] && [ ! -e exit ]; then
    echo 'multicri: Slurm has requeued this job, and its container does not run twice' >&2
    multicri_finish 137 Requeued
  fi
  echo 'multicri: another job runs this container' >&2
  exit 0
fi
printf '%s\n' "$SLURM_JOB_ID" > claim/job
: >> stdout
: >> stderr
[ ! -e cancelled ] || multicri_finish 137 Cancelled

multicri_launcher=(srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task=2)
multicri_instead=(mpirun -np 4)
timeout -k 5 "$((60 + SLURM_JOB_NUM_NODES))" srun --mpi=pmix --job-name=multicri-mpi --cpu-bind=none \
  --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 echo up < /dev/null > trial &
wait $!
if [ "$(grep -c '^up$' trial)" != "$SLURM_JOB_NUM_NODES" ] && [ -z "$multicri_signalled" ]; then
  if [ "${#multicri_instead[@]}" = 0 ]; then
    echo 'multicri: the annotation slurm.multicri.io/mpi: mpirun is the other way' >&2
    multicri_finish 1 MpiFailed
  elif ! command -v mpirun > /dev/null; then
    echo 'multicri: nor is there mpirun in PATH: load it in CLUSTER_CONFIG' >&2
    multicri_finish 1 MpiFailed
  fi
  echo 'multicri: srun --mpi=pmix does not work on the nodes of this job: mpirun starts the ranks' >> stderr
  multicri_launcher=("${multicri_instead[@]}")
fi

case $multicri_signalled in
  TERM) multicri_finish 143 Cancelled ;;
  KILL) multicri_finish 137 Cancelled ;;
esac
printf '%s %s\n' "$SLURM_JOB_ID" "$(date +%s%N)" > started.tmp && mv started.tmp started
set -m # a process group of its own for the container
( # The status of a process that ends just when a trap interrupts `wait` is lost to bash. Here nobody uses that.
  multicri_told=
  trap multicri_told=TERM TERM # of which Slurm tells every process, when a job's time is up
  (
    printf '%s\n' "$BASHPID" "$multicri_working_dir" > process.tmp && mv process.tmp process
    umask 022
    exec "${multicri_launcher[@]}" apptainer --quiet exec --no-mount home,cwd --no-eval --writable-tmpfs --no-home --pwd / --env-file env /home/alice/multi-cri/images/0123.sif /app/solve
  ) < /dev/null >> stdout 2>> stderr
  multicri_code=$?
  # Apptainer ends with 128 and what it could not pass on any more: that may be the CONT which Slurm sends before TERM
  [ "$multicri_told-$multicri_code" != TERM-146 ] || multicri_code=143
  printf '%s\n' "$multicri_code" > code
) &
multicri_child=$!
set +m # with which `wait` would take a stop for the end
until [ -e process ] || ! kill -0 "$multicri_child"; do sleep 0.05; done 2> /dev/null
[ -z "$multicri_signalled" ] || multicri_signal "$multicri_signalled"
while :; do
  multicri_signalled=
  wait "$multicri_child"
  [ -n "$multicri_signalled" ] || break
done
read -r multicri_code < code || multicri_code=137 # killed, with what was to write it
multicri_finish "$multicri_code" Exited
