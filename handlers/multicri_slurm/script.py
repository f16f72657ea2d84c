"""The text of a job: what Slurm is asked for, and the script that runs a container. Pure.

What the script leaves in its directory, and when:

    claim/job     first: the job that may run the container. A second job for the same container ends at once.
    claim/prerun  while the prerun text runs: it may end this script in ways that no trap sees.
    started       just before the container: ``<job id> <Unix time in ns>``
    process       once it runs: its process on the node, and its working directory, for those that join it
    terminal      the name of its terminal on its node, if it has one, which is `terminal.py`'s work
    stdin         a pipe, on its node, if somebody may attach to it. stdin.holder: who is to end with the first one
    usage         now and then, where Slurm does not measure: see `measuring.py`
    stdout, stderr
    exit          last, by rename: lines of ``name=value``, see `exits.py`. The truth about how the container ended.
    slurm.out     what Slurm, the prerun text and this script say

TERM is passed on to the container, and then waited for. USR1 kills it, with its process group and all
descendants: Apptainer's FUSE daemons are in groups of their own, and outlive it if they are not killed with it. Killing
this script instead would leave everything behind where Slurm tracks processes by their parents (proctrack/linuxproc).
"""

import re
import shlex
from dataclasses import dataclass
from typing import Protocol

from multicri_slurm.measuring import BEGIN_MEASURING, END_MEASURING, Scope, measuring_functions
from multicri_slurm.mpi import NO_LAUNCHER, Launcher
from multicri_slurm.node_python import by_python
from multicri_slurm.runtimes import ENV_FILE, Container, container_words, working_dir_of
from multicri_slurm.srun_script import TERM_BY_SLURM, TRIAL

NOT_IN_COMMENT = re.compile(r"[^A-Za-z0-9._/-]+", re.ASCII)
LONGEST_COMMENT = 200

PRERUN_FAILED = "PrerunFailed"
REQUEUED = "Requeued"
EXITED = "Exited"


class Script(Protocol):
    """What a job runs in its directory, which is an absolute path."""

    @property
    def directory(self) -> str: ...

    def render(self) -> str:
        """For bash."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerScript:
    """The part that runs a container, in whatever Slurm has started it.

    directory: absolute. launcher: of the ranks, for MPI. has_prerun: is a prerun.sh to be sourced?
    passed: names of variables of the job that its container gets too, if they are set.
    stdin: whether somebody may attach to its input. stdin_once: and only one.
    tty: whether it is to have a terminal; ranks have none.
    measured: whether the script tells what it uses, and of what it looks at the cgroup.
    """

    directory: str
    container: Container
    launcher: Launcher = NO_LAUNCHER
    has_prerun: bool = False
    passed: tuple[str, ...] = ()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    measured: Scope | None = None

    def render(self) -> str:
        """For bash; uses nothing of the job but SLURM_JOB_ID."""
        by_slurm = bool(self.launcher.mpi_type)
        words = " ".join(map(quoted, container_words(self.container)))
        started_by = '"${multicri_launcher[@]}"' if by_slurm else " ".join(map(quoted, self.launcher.words))
        return (
            f"multicri_directory={shlex.quote(self.directory)}\n"
            f"multicri_working_dir={quoted(working_dir_of(self.container))}\n"
            f"{BEGIN.replace('@TERM@', TERM_BY_SLURM if by_slurm else TERM)}"
            f"{_PRERUN if self.has_prerun else ''}{self._passing()}{self._trying() if by_slurm else ''}"
            f"{measuring_functions(self.measured, tasks=by_slurm) if self.measured else ''}"
            f"{self._running().replace('@WORDS@', f'{started_by} {words}'.lstrip())}"
        )

    def _trying(self) -> str:
        return (
            TRIAL.replace("@LAUNCHER@", " ".join(map(quoted, self.launcher.words)))
            .replace("@TYPE@", self.launcher.mpi_type)
            .replace("@INSTEAD@", " ".join(map(quoted, self.launcher.instead)))
        )

    def _running(self) -> str:
        held = f"{_HELD_STDIN}{_ONCE if self.stdin_once else ''}" if self.stdin else ""
        released = _RELEASED_STDIN if self.stdin else ""
        in_terminal = self.tty and self.launcher == NO_LAUNCHER
        text = _CONTAINER.replace("exec @WORDS@", "multicri_in_terminal @WORDS@") if in_terminal else _CONTAINER
        return (_TERMINAL if in_terminal else "") + (
            text.replace("@BEFORE@", f"{held}{BEGIN_MEASURING if self.measured else ''}")
            .replace("@AFTER@", f"{released}{END_MEASURING if self.measured else ''}")
            .replace("@STDIN@", "stdin" if self.stdin else "/dev/null")
        )

    def _passing(self) -> str:
        if not self.passed:
            return ""
        end = "\\0" if self.container.runtime.takes_env0 else "\\n"
        return (
            _PASSING.replace("@NAMES@", " ".join(map(quoted, self.passed)))
            .replace("@END@", end)
            .replace("@ENV@", ENV_FILE)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScript:
    """A job, checked: nothing in it can end a line or begin a new one.

    options: ``--option=value``, each checked against its list.
    """

    job_name: str
    comment: str
    options: tuple[str, ...]
    script: Script


def comment_of(namespace: str, pod: str, container: str) -> str:
    """``namespace/pod/container``, of harmless characters only."""
    return "/".join(NOT_IN_COMMENT.sub("_", part).replace("/", "_") for part in (namespace, pod, container))[
        :LONGEST_COMMENT
    ]


def render(job: JobScript) -> str:
    """The job script, to be given to sbatch."""
    options = (
        f"--job-name={job.job_name}",
        f"--comment={job.comment}",
        f"--chdir={job.script.directory}",
        f"--output={job.script.directory}/slurm.out",
        "--no-requeue",
        "--dependency=singleton",
        *job.options,
    )
    for option in options:
        if any(character in option for character in "\n\r\0"):
            raise AssertionError(f"an option with more than one line: {option!r}")
    header = "\n".join(f"#SBATCH {option}" for option in options)
    return f"#!/bin/bash\n{header}\n\n{job.script.render()}"


def quoted(word: str) -> str:
    """A word for bash, on one line whatever it holds.

    sbatch refuses a script with DOS line ends, and reads lines that begin with ``#SBATCH``: so no line break of a pod
    may become one of the script.
    """
    if _CONTROL.search(word) is None:
        return shlex.quote(word)
    return "$'" + word.translate(_ESCAPES) + "'"


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = {code: f"\\{code:03o}" for code in (*range(0x20), 0x7F, ord("\\"), ord("'"))}

TERM = r"""  kill -TERM "$(head -n 1 process)"
"""
BEGIN = r"""
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
@TERM@}
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
"""

_PRERUN = r"""
: > claim/prerun
trap 'multicri_code=$?; multicri_finish "$((multicri_code ? multicri_code : 1))" PrerunFailed' EXIT
. ./prerun.sh < /dev/null
multicri_code=$?
set +eu +o pipefail
if [ "$multicri_code" != 0 ]; then
  echo "multicri: the prerun text ended with code $multicri_code" >&2
  multicri_finish "$multicri_code" PrerunFailed
fi
trap - EXIT
multicri_prepare
rm claim/prerun
"""

_PASSING = r"""
for multicri_name in @NAMES@; do
  multicri_value=${!multicri_name-}
  case $multicri_value in
    '' | *[!A-Za-z0-9_.,:/-]*) ;;
    *) printf "%s='%s'@END@" "$multicri_name" "$multicri_value" >> @ENV@ ;;
  esac
done
"""

_CONTAINER = r"""
case $multicri_signalled in
  TERM) multicri_finish 143 Cancelled ;;
  KILL) multicri_finish 137 Cancelled ;;
esac
printf '%s %s\n' "$SLURM_JOB_ID" "$(date +%s%N)" > started.tmp && mv started.tmp started
set -m # a process group of its own for the container
@BEFORE@( # The status of a process that ends just when a trap interrupts `wait` is lost to bash. Here nobody uses that.
  multicri_told=
  trap multicri_told=TERM TERM # of which Slurm tells every process, when a job's time is up
  (
    printf '%s\n' "$BASHPID" "$multicri_working_dir" > process.tmp && mv process.tmp process
    umask 022
    exec @WORDS@
  ) < @STDIN@ >> stdout 2>> stderr
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
@AFTER@multicri_finish "$multicri_code" Exited
"""

_TERMINAL = f"""
multicri_in_terminal() {{ # command...
  local python
{by_python('terminal.py "$@"')}  echo 'multicri: a terminal needs Python 3.6 or newer on the node: there is none' >&2
  exec "$@"
}}
"""

_HELD_STDIN = r"""rm -f stdin && mkfifo stdin
sleep 2147483647 <> stdin > /dev/null 2>&1 & # keeps it open while nobody is attached
multicri_holder=$!
"""
_ONCE = """printf '%s\\n' "$multicri_holder" > stdin.holder
"""
_RELEASED_STDIN = """kill "$multicri_holder" 2> /dev/null
"""
