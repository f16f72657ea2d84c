"""The programs that run on a login host: constants, sent on stdin to ``sh -s -- words…``.

Each is a function that the last line calls, so that a stream that was cut runs nothing. Each line of an answer begins
with ``multicri:``, because a login shell may print anything before. Only our own words go on the command line.
"""

from typing import Final

TOOLS: Final = r"""
say() { printf 'multicri:%s\n' "$1"; }
say_lines() { # name: stdin, line by line
  while IFS= read -r line || [ -n "$line" ]; do printf 'multicri:%s=%s\n' "$1" "$line"; done
}
wipe() { # paths
  for path; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    [ ! -d "$path" ] || [ -L "$path" ] || chmod -R u+rwX -- "$path" 2>/dev/null
    rm -rf -- "$path"
  done
}
locked() { # seconds to wait for descriptor 9, -s to share it; says why not
  words=$(flock $2 -w "$1" 9 2>&1)
  case $? in
    0) return 0;;
    1) say error=busy;;
    *) printf '%s\n' "$words" | say_lines stderr; say error=unlockable;;
  esac
  return 1
}
"""

PROBE: Final = (
    TOOLS
    + r"""
main() { # programs
  cd || exit 1
  say "home=$HOME"
  say "user=$(id -un)"
  for program; do
    ! command -v -- "$program" >/dev/null 2>&1 || say "program=$program"
  done
  if command -v ch-run >/dev/null 2>&1; then
    ch-run --help 2>&1 | grep -o -e '--[a-z][a-z0-9-]*' | sort -u | say_lines ch-run-option
    ! ch-run --feature=squash >/dev/null 2>&1 || say ch-run-option=squash
  fi
  ! command -v srun >/dev/null 2>&1 || timeout 10 srun --mpi=list 2>&1 </dev/null | say_lines srun-mpi
  ! command -v sstat >/dev/null 2>&1 || timeout 10 scontrol show config 2>/dev/null | grep '^JobAcctGather' |
    say_lines gather
  say done=probe
}
main "$@"
"""
)
"""Args: programs to look for. Says home, user, program, ch-run-option, lines of srun-mpi, and of
the configuration about what sstat can tell, if it is there."""

MAKE_DIRECTORIES: Final = (
    TOOLS
    + r"""
main() { # directories
  umask 077
  mkdir -p -- "$@" && chmod 700 -- "$@" || return
  exec 9>>"$1/lock" || return
  locked 0 && say done=made
}
main "$@"
"""
)
"""Says done=made, or error=unlockable with lines of stderr where a submit could not be locked."""

SUBMIT: Final = (
    TOOLS
    + r"""
found() { # job id; a full quota may keep it from being written, and is no reason not to tell it
  { printf '%s\n' "$1" > jobid.tmp && mv jobid.tmp jobid; } 2>/dev/null
  say "job=$1"
}
look() { # job name: 0 if found, 1 if there is positively none, 2 if Slurm is silent
  if [ -s claim/job ]; then found "$(cat claim/job)"; return 0; fi
  if ! jobs=$(squeue -h -t all -u "$(id -un)" -n "$1" -o %i 2>look.err); then
    say_lines stderr < look.err; return 2
  fi
  job=$(printf '%s\n' "$jobs" | grep -E '^[0-9]+$' | sort -n | head -n 1)
  if [ -n "$job" ]; then found "$job"; return 0; fi
  command -v sacct >/dev/null 2>&1 || return 1
  if ! jobs=$(sacct -X -n -P -S now-30days -u "$(id -un)" --name="$1" -o JobIDRaw 2>look.err); then
    grep -q -i -e 'storage is disabled' look.err && return 1
    say_lines stderr < look.err; return 2
  fi
  job=$(printf '%s\n' "$jobs" | grep -E '^[0-9]+$' | sort -n | head -n 1)
  [ -n "$job" ] || return 1
  found "$job"
}
main() { # mode directory job-name seconds
  mode=$1
  if ! cd -- "$2"; then say error=gone; return; fi
  umask 077
  exec 9>>lock || return
  locked "$4" || return
  [ "$mode" != cancel ] || : > cancelled
  if [ -s jobid ]; then say "job=$(cat jobid)"; return; fi
  if [ -e attempt ]; then
    look "$3"
    case $? in
      0) return;;
      2) say error=silent; return;;
    esac
  fi
  if [ "$mode" != submit ]; then say done=none; return; fi
  if [ -e cancelled ]; then say error=cancelled; return; fi
  : > attempt
  if answer=$(sbatch --parsable job.sh 2>sbatch.err </dev/null); then
    job=$(printf '%s\n' "$answer" | tail -n 1)
    job=${job%%;*}
    case $job in
      ''|*[!0-9]*) printf '%s\n' "$answer" | say_lines stderr; say error=silent;;
      *) found "$job";;
    esac
  else
    code=$? # a signal, or no word: killed here, after slurmctld may have taken the job
    say_lines stderr < sbatch.err
    if [ "$code" -gt 128 ] || [ ! -s sbatch.err ]; then say error=silent; else say error=refused; fi
  fi
}
main "$@"
"""
)
"""Find the job of a container, or submit it, under a lock that a submit whose connection was cut still holds.

Args: mode (submit; find; cancel: as find, and no submit shall follow), directory, job name, seconds to wait for the
lock. Says job=N, done=none, or error=gone|busy|unlockable|silent|cancelled|refused with lines of stderr.
The file ``attempt`` is there as soon as sbatch may have been called: without it there is nothing to look for.
"""

STEP: Final = (
    TOOLS
    + r"""
main() { # mode, directory of the allocation, directory of the container, seconds
  if ! cd -- "$3"; then say error=gone; return; fi
  id=${3##*/}
  umask 077
  exec 9>>lock || return
  locked "$4" || return
  [ "$1" != cancel ] || true > cancelled || return
  for place in requests running withdrawn; do # in the order in which it may move
    if [ -e "$2/$place/$id" ]; then say done=requested; return; fi
  done
  if [ "$1" != submit ]; then say done=none; return; fi
  if [ -e cancelled ]; then say error=cancelled; return; fi
  if [ ! -d "$2/requests" ]; then say error=over; return; fi
  true > "$2/requests/$id" && say done=requested
}
main "$@"
"""
)
"""Ask an allocation for the step of a container, or see whether it was asked for, under the container's lock.

Args: mode (submit; find; cancel: as find, and no submit shall follow), directory of the allocation, of the container,
seconds to wait for the lock. Says done=requested|none, or error=gone|busy|unlockable|cancelled|over.
"""

SIGNAL_STEP: Final = (
    TOOLS
    + r"""
main() { # TERM, USR1 or CANCEL, job id, directory of the allocation, directory of the container
  if ! cd -- "$4"; then say error=gone; return; fi
  id=${4##*/}
  umask 077
  true > cancelled || return
  if mv "$3/requests/$id" "$3/withdrawn/" 2>/dev/null || [ -e "$3/withdrawn/$id" ]; then
    if [ ! -e ended ]; then
      printf 'code=137\nreason=Cancelled\nfinished_ns=%s\njob_id=%s\n' "$(date +%s%N)" "$2" > exit.tmp &&
        mv exit.tmp exit && true > ended || return
    fi
  elif [ "$1" != CANCEL ]; then
    true > "$3/signals/$id.$1" || return
  elif [ -s step ]; then
    scancel "$2.$(cat step)" 2>&1 | say_lines scancel
  fi
  say done=signalled
}
main "$@"
"""
)
"""Of a container whose step has not begun, the request is taken back, and it has ended. Else the allocation's script is
asked to signal it; CANCEL, which is for a step whose script does not answer, is Slurm's to do.

A step that is just being made finds the file ``cancelled``, which is there before we look for the step.
"""

QUEUE: Final = (
    TOOLS
    + r"""
main() {
  if jobs=$(squeue -h -a -t all -u "$(id -un)" -o '%i|%T|%N|%a|%j|%r' 2>&1); then
    printf '%s\n' "$jobs" | sed 's/^/multicri:squeue=/'
    say done=queue
  else
    printf '%s\n' "$jobs" | say_lines stderr
  fi
}
main "$@"
"""
)
"""Says a line of squeue for each job of the user, also in hidden partitions, then done=queue; or lines of stderr."""

HISTORY: Final = (
    TOOLS
    + r"""
main() { # how many jobs scontrol may be asked for, job ids
  most=$1 over=
  shift
  if ! command -v sacct >/dev/null 2>&1; then
    say sacct-error='sacct: command not found'
  elif answer=$(sacct -X -n -P -S now-30days -j "$(IFS=,; echo "$*")" \
      -o JobIDRaw,State,ExitCode,NodeList,Account,JobName 2>&1); then
    printf '%s\n' "$answer" | sed 's/^/multicri:sacct=/'
    say sacct-done=1
    over=$(printf '%s\n' "$answer" | grep -v -E '^[0-9]+\|(PENDING|RUNNING|SUSPENDED|REQUEUED|RESIZING)\|')
  else
    printf '%s\n' "$answer" | say_lines sacct-error
  fi
  for job; do
    case "
$over" in *"
$job|"*) continue ;; esac
    [ "$most" -gt 0 ] || break
    most=$((most - 1))
    if answer=$(scontrol -a -o show job "$job" 2>&1); then
      printf '%s\n' "$answer" | say_lines "scontrol-$job"
    else
      printf '%s\n' "$answer" | say_lines "scontrol-error-$job"
    fi
  done
  say done=history
}
main "$@"
"""
)
"""What is known of jobs that squeue does not list: one sacct for all, and scontrol, one job at a time, for the first of
those whose end is not recorded. Says what each knows, and their errors apart.
"""

USAGE: Final = (
    TOOLS
    + r"""
main() { # pairs of a job's id and a container's directory
  jobs=
  while [ "$#" -gt 1 ]; do
    reading=
    { IFS= read -r reading < "$2/usage"; } 2>/dev/null
    if [ -n "$reading" ]; then say "reading=$2 $reading"; else jobs=$jobs,$1; fi
    shift 2
  done
  if [ -z "$jobs" ]; then
    say done=usage
  elif ! command -v sstat >/dev/null 2>&1; then
    say stderr='sstat: command not found'
  elif answer=$(sstat -a -n -P -j "${jobs#,}" -o JobID,TRESUsageInTot 2>&1); then
    printf '%s\n' "$answer" | sed 's/^/multicri:sstat=/'
    say done=usage
  else
    printf '%s\n' "$answer" | say_lines stderr
  fi
}
main "$@"
"""
)
"""Says what a container's own script has measured, and for jobs without that a line of sstat for each step that runs; a
job that has none is no error.
"""

SIGNAL: Final = (
    TOOLS
    + r"""
main() { # TERM, USR1 or CANCEL, job id
  case $1 in
    CANCEL)
      scancel "$2" 2>&1 | say_lines scancel
      ;;
    *)
      scancel --state=PENDING "$2" 2>&1 | say_lines scancel
      scancel -b -s "$1" "$2" 2>&1 | say_lines scancel
      ;;
  esac
  say done=signalled
}
main "$@"
"""
)
"""A pending job is cancelled. Of a running one the batch script gets TERM or USR1, and does the rest.

CANCEL is for a job whose script does not answer: Slurm sends TERM to all of it, and KILL after KillWait. scancel's own
``-s KILL`` does the same unless ``-b`` is given, and with ``-b`` leaves the container behind under proctrack/linuxproc
(seen with 24.11).
"""

REMOVE: Final = (
    TOOLS
    + r"""
main() { # number, directories; more directories
  count=$1
  shift
  while [ "$count" -gt 0 ]; do
    wipe "$1"
    [ ! -e "$1" ] || left=1
    count=$((count - 1))
    shift
  done
  for directory; do
    rmdir -- "$directory" 2>/dev/null
  done
  if [ -n "$left" ]; then say error=left; else say done=removed; fi
}
left=
main "$@"
"""
)
"""Args: how many directories to remove with all that is in them, these, then those to remove if they are empty.

Says done=removed, or error=left if one of the former is still there.
"""

SIZES: Final = (
    TOOLS
    + r"""
main() {
  set -f
  while IFS= read -r question; do
    case $question in
      look)
        for file; do # a network file system asks its server when a file is opened, and not when it is looked at
          { true < "$file"; } 2>/dev/null
        done
        printf '%s\0' "$@" | xargs -0 stat -L -c 'multicri:size=%s %n' -- 2>/dev/null
        say done=sizes
        ;;
      *) set -- $question ;;
    esac
  done
}
main
"""
)
"""Stays, and answers each line of stdin: ``look``, or the files to be looked at from now on, which have no spaces.

Says size=BYTES FILE for each of them that is there, then done=sizes.
"""
