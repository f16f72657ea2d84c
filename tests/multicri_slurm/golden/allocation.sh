#!/bin/bash
#SBATCH --job-name=multicri-a110
#SBATCH --comment=default/pod/allocation
#SBATCH --chdir=/home/alice/multi-cri/5a4d/a110
#SBATCH --output=/home/alice/multi-cri/5a4d/a110/slurm.out
#SBATCH --no-requeue
#SBATCH --dependency=singleton
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=3
#SBATCH --mem=96M

multicri_directory=/home/alice/multi-cri/5a4d/a110

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
  kill -TERM "$(head -n 1 process)"
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

multicri_signal() { # TERM: Slurm ends the job, and has told the steps. KILL: we do
  multicri_signalled=$1
  true > closing
  [ "$1" != KILL ] || for multicri_id in running/*; do multicri_send USR1 "${multicri_id##*/}"; done
} 2> /dev/null
multicri_send() { # signal container; CANCEL is Slurm's to do
  case $1 in
    CANCEL) [ ! -s "../$2/step" ] || scancel "$SLURM_JOB_ID.$(cat "../$2/step")" ;;
    *) [ -e "../$2/exit" ] || kill -s "$1" "$(cat "../$2/pid")" ;;
  esac
} 2> /dev/null
multicri_end() { # code reason: write the exit file of the container whose directory this is
  (
    multicri_directory=$PWD
    : >> stdout
    : >> stderr
    multicri_finish "$1" "$2"
  )
}
multicri_step() { # container
  cd "../$1" || return
  bash ./step.sh >> slurm.out 2>&1 < /dev/null
  multicri_code=$?
  [ ! -e "$multicri_directory/closing" ] || return
  if [ ! -e exit ]; then
    if [ -e cancelled ]; then
      multicri_end 137 Cancelled
    elif grep -q 'Out Of Memory' slurm.out; then
      multicri_end 137 OOMKilled
    else
      multicri_end "$((multicri_code ? multicri_code : 1))" StepFailed
    fi
  elif grep -q 'Out Of Memory' slurm.out && ! grep -q '^code=0$' exit; then
    sed 's/^reason=Exited$/reason=OOMKilled/' exit > exit.tmp && mv exit.tmp exit
  fi
  true > ended
}

set -m # so that a signal for this script's process group is not srun's, too
multicri_busy=$SECONDS
while [ -z "$multicri_signalled" ]; do
  for multicri_request in requests/*; do
    multicri_id=${multicri_request##*/}
    [ -e "$multicri_request" ] || continue
    if [ -e "running/$multicri_id" ]; then
      rm -f "$multicri_request" # asked for twice
    elif mv "$multicri_request" "running/$multicri_id"; then
      multicri_step "$multicri_id" &
    fi
  done
  for multicri_request in signals/*; do
    if [ -e "$multicri_request" ] && rm "$multicri_request"; then
      multicri_id=${multicri_request##*/}
      multicri_send "${multicri_id##*.}" "${multicri_id%.*}"
    fi
  done
  [ -z "$(jobs -rp)" ] || multicri_busy=$SECONDS
  multicri_idle=$((SECONDS - multicri_busy))
  [ "$multicri_idle" -lt 3600 ] || break
  multicri_pause=0.5
  [ "$multicri_idle" -lt 60 ] || multicri_pause=2
  sleep "$multicri_pause" &
  wait $!
done
mv requests closed
for multicri_request in closed/*; do
  if [ -e "$multicri_request" ] && mv "$multicri_request" withdrawn/; then
    (cd "../${multicri_request##*/}" && multicri_end 137 Cancelled && true > ended)
  fi
done
while [ -n "$(jobs -rp)" ]; do
  wait # which a signal interrupts
done
multicri_finish 0 Exited
