"""The text of an allocation that a pod's containers share, and of a step in it. Pure.

The allocation is a job whose script stays: it runs each container that is asked for as a step, on its own node. What is
in its directory, beside what every job leaves there:

    requests/<container>   asked for. Whoever moves it decides: the script to ``running``, who takes it back to
                           ``withdrawn``. Gone as soon as no step is begun any more
    signals/<container>.<signal>
                           to be sent to the script of a step. Not by scancel, which signals a container's own processes
                           too where Slurm tracks them by their parents; unless it is CANCEL, for a step whose script
                           does not answer
    closing                the job is being ended: what its steps do now, they do for that reason

In the directory of each container:

    step.sh, run.sh        srun's words; and what it runs: a container as in a job of its own
    pid, step              of run.sh, and the number of the step, before anything of the container begins
    ended                  after ``exit``, when nothing of the step is left. A container without it ends with the job
"""

import shlex
from dataclasses import dataclass

from multicri_slurm.script import BEGIN, LONGEST_COMMENT, NOT_IN_COMMENT, TERM, ContainerScript

STEP_FAILED = "StepFailed"
OOM_KILLED = "OOMKilled"
CANCELLED = "Cancelled"
PLACES = ("requests", "running", "withdrawn", "signals")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationScript:
    """The batch script of an allocation.

    directory: absolute, beside those of the containers. idle_s: after how long without a container it ends.
    """

    directory: str
    idle_s: int

    def render(self) -> str:
        supervisor = (
            _SUPERVISOR.replace("@IDLE@", str(self.idle_s))
            .replace("@FAILED@", STEP_FAILED)
            .replace("@OOM@", OOM_KILLED)
            .replace("@CANCELLED@", CANCELLED)
        )
        return f"multicri_directory={shlex.quote(self.directory)}\n{BEGIN.replace('@TERM@', TERM)}{supervisor}"


def step_files(name: str, memory_mib: int | None, script: ContainerScript) -> dict[str, str]:
    """The scripts of a container that is a step. name: the container's, as sacct shows it.

    memory_mib: its limit, which is never more than the allocation has; None for all that this has.
    """
    step = _STEP.replace("@NAME@", NOT_IN_COMMENT.sub("_", name)[:LONGEST_COMMENT] or "_")
    return {
        "step.sh": step.replace("@MEMORY@", str(memory_mib or 0)),
        "run.sh": f"{_RUN.replace('@DIRECTORY@', shlex.quote(script.directory))}{script.render()}",
    }


_SUPERVISOR = r"""
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
      multicri_end 137 @CANCELLED@
    elif grep -q 'Out Of Memory' slurm.out; then
      multicri_end 137 @OOM@
    else
      multicri_end "$((multicri_code ? multicri_code : 1))" @FAILED@
    fi
  elif grep -q 'Out Of Memory' slurm.out && ! grep -q '^code=0$' exit; then
    sed 's/^reason=Exited$/reason=@OOM@/' exit > exit.tmp && mv exit.tmp exit
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
  [ "$multicri_idle" -lt @IDLE@ ] || break
  multicri_pause=0.5
  [ "$multicri_idle" -lt 60 ] || multicri_pause=2
  sleep "$multicri_pause" &
  wait $!
done
mv requests closed
for multicri_request in closed/*; do
  if [ -e "$multicri_request" ] && mv "$multicri_request" withdrawn/; then
    (cd "../${multicri_request##*/}" && multicri_end 137 @CANCELLED@ && true > ended)
  fi
done
while [ -n "$(jobs -rp)" ]; do
  wait # which a signal interrupts
done
multicri_finish 0 Exited
"""

_STEP = r"""#!/bin/bash
# A step may share all that the job has, but cannot ask for more memory than that.
multicri_memory=@MEMORY@
multicri_all=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-0}))}
if [ "$multicri_all" -gt 0 ] && [ "$multicri_memory" -gt "$multicri_all" ]; then
  multicri_memory=$multicri_all
fi
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
exec srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none --mpi=none --kill-on-bad-exit=0 \
  --job-name=@NAME@ --mem="${multicri_memory}M" bash ./run.sh
"""

_RUN = r"""#!/bin/bash
cd @DIRECTORY@ || exit 1
umask 077
# First of all: who cancels it either finds its step, or it finds that it is cancelled.
printf '%s\n' "$$" > pid.tmp && mv pid.tmp pid
printf '%s\n' "$SLURM_STEP_ID" > step.tmp && mv step.tmp step
"""
