"""The programs that run a command in a container that runs: on the login host and on the container's node.

They are constants; the command's words come as arguments, quoted. The login host's own is one ``srun`` in the
container's job; the node's finds the container's process and joins its namespaces.

Source: srun(1) --overlap, --pty, --unbuffered; nsenter(1); what was tried stands beside it.
"""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import JobId
from multicri_slurm import agent
from multicri_slurm.marks import BEGIN
from multicri_slurm.node_python import by_python

Way = Literal["srun", "ssh"]
"""How the login host gets at a job's node: by a step of the job, or by its own ssh."""

LARGEST_COMMAND_BYTES = 64 * 1024  # it is one argument of ssh, in base64: Linux takes 128 KiB

_ON_NODE: Final = r"""
say() { printf 'multicri-%s:%s\n' "$nonce" "$1"; }
is_in_container() { # process: it is another mount namespace's, and no more the runtime's own
  [ "$(readlink "/proc/$1/ns/mnt")" != "$ours" ] || return
  grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$1/status" || return
  grep -q '^ENGINE_CONFIG1=' -z "/proc/$1/environ" && return 1
  [ "$(head -n 1 "/proc/$1/comm")" != ch-run ] || return
  ! tr '\0' '\n' < "/proc/$1/cmdline" | head -n 2 | grep -q '^/[.]singularity[.]d/actions/'
}
seek() { # process: sets pid to the first of it and its descendants that is in the container
  local child
  if is_in_container "$1"; then pid=$1; return; fi
  for child in $(cat "/proc/$1/task/"*/children); do
    seek "$child" && return
  done
  return 1
}
find_container() {
  local root tries=0
  ours=$(readlink /proc/self/ns/mnt)
  while [ "$tries" -lt 50 ]; do
    if { read -r child && IFS= read -r directory; } < process; then
      seek "$child" && return
      [ "$ranks" = ranks ] && for root in $(scontrol listpids "$SLURM_JOB_ID" | awk 'NR > 1 { print $1 }'); do
        seek "$root" && return
      done
    fi
    tries=$((tries + 1))
    sleep 0.1
  done
  return 1
}
main() { # nonce, terminal or pipes, ranks or alone, command...
  nonce=$1 terminal=$2 ranks=$3
  shift 3
  exec 3>&2 2> /dev/null
  if ! find_container; then
    say error=gone
    return
  fi
  variables=() loader=() namespaces=(-U -m)
  while IFS= read -r -d '' entry; do
    case $entry in
      LD_*=* | GLIBC_TUNABLES=*) loader+=("$entry") ;;
      *=*) variables+=("$entry") ;;
    esac
  done < "/proc/$pid/environ"
  if [ "$terminal" = terminal ]; then
    case " ${variables[*]}" in *' TERM='*) ;; *) variables+=(TERM=xterm) ;; esac
  fi
  for name in pid ipc; do
    [ "$(readlink "/proc/$pid/ns/$name")" = "$(readlink "/proc/self/ns/$name")" ] || namespaces+=("--$name")
  done
  enter=("$(command -v env)" -i -- "${variables[@]}" "$(command -v setpriv)" --no-new-privs
    "$(command -v nsenter)" -t "$pid" "${namespaces[@]}" --preserve-credentials)
  [ "${#loader[@]}" = 0 ] || for tool in /usr/bin/env /bin/env; do
    if "${enter[@]}" -- "$tool" < /dev/null > /dev/null; then
      set -- "$tool" "${loader[@]}" "$@"
      break
    fi
  done
  if nsenter --help | grep -q -e --wdns; then
    enter+=("--wdns=$directory")
  elif "${enter[@]}" -- /bin/sh -c : < /dev/null; then
    set -- /bin/sh -c 'cd "$1"; shift; exec "$@"' sh "$directory" "$@"
  fi
  set -- "${enter[@]}" -- "$@"
  umask 022
  say @BEGIN@
  if [ "$terminal" = terminal ]; then
    trap : INT QUIT
    (exec "$@" 2>&3 3>&-)
    say "exit=$?"
  else
    say @BEGIN@ >&3
    (exec "$@" 2>&3 3>&-) | cat
    say "exit=${PIPESTATUS[0]}" >&3
  fi
}
main "$@"
""".replace("@BEGIN@", BEGIN)
"""For bash, in the container's directory. What it says of itself ends stderr, or the terminal's output.

The environment is that of the container's process. What the dynamic loader reads is set inside of the container only:
it would change what runs outside of it. What is there cannot be seen before: a FUSE file system forbids every look from
outside of its user namespace. nsenter before 2.38 has no ``--wdns``. ``| cat``: with ``srun --unbuffered`` stdout is a
terminal, which a command is not to see; without it srun keeps back what does not end with a newline.
"""

_ATTACH: Final = r"""
say() { printf 'multicri-%s:%s\n' "$nonce" "$1"; }
fit() {
  local size
  size=$(stty size) && stty -F "$terminal" rows "${size% *}" cols "${size#* }"
}
main() { # nonce, how much of its output is not wanted, input or none
  local tries=0
  nonce=$1
  exec 4<&0 2> /dev/null
  until [ -s terminal ] && [ -s process ]; do
    tries=$((tries + 1))
    [ "$tries" -le 50 ] || { say error=terminal; return; }
    sleep 0.1
  done
  if [ "$3" = input ] && [ ! -p stdin ]; then say error=stdin; return; fi
  read -r child < process
  read -r terminal < terminal
  stty raw -echo
  trap fit WINCH
  fit
  say @BEGIN@
  tail -c "+$(($2 + 1))" -s 0.1 --pid="$child" -f stdout &
  tail=$!
  [ "$3" = none ] || cat <&4 > stdin &
  while kill -0 "$tail"; do
    wait "$tail"
  done
  say exit=0
}
main "$@"
""".replace("@BEGIN@", BEGIN)
"""For bash, in the container's directory, on its node, in a terminal: joins it with that of the container."""

_FEED: Final = r"""
main() { # nonce
  if [ ! -p stdin ]; then
    printf 'multicri-%s:error=stdin\n' "$1" >&2
    return
  fi
  printf 'multicri-%s:@BEGIN@\n' "$1" >&2
  cat > stdin
  [ ! -e stdin.holder ] || kill "$(cat stdin.holder)"
  printf 'multicri-%s:exit=0\n' "$1" >&2
}
main "$@"
""".replace("@BEGIN@", BEGIN)
"""For bash, in the container's directory, on its node: there alone a pipe in a shared file system leads to it."""

_AGENT: Final = (
    by_python(f"""-c "$2" "multicri-$1:{BEGIN}\"""")
    + r"""printf 'multicri-%s:error=python\n' "$1"
"""
)
"""For bash, in the container's directory: `agent.py`, or a word that it cannot run."""

_AGENT_SOURCE: Final = Path(agent.__file__).read_text("utf-8")

_SSH_OPTIONS: Final = (
    *("-T", "-a", "-x", "-e", "none", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes"),
    *("-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15"),
)

_WITH_PIPES: Final = r"""
exec 3<&0 </dev/null
@SRUN@ <&3 3<&- &
srun=$!
exec 3<&-
trap 'kill -TERM "$srun"' TERM HUP INT
(
  trap - TERM HUP INT
  while sleep 2 && kill -0 "$srun"; do
    kill -0 "$PPID" || kill -TERM "$srun"
  done
) >/dev/null 2>&1 &
watcher=$!
while kill -0 "$srun" 2>/dev/null; do
  wait "$srun"
done
kill "$watcher"
"""
"""Ends srun when it is told to, and when the SSH connection is gone, of which srun would not hear before it writes."""


def script_of(
    *,
    job_id: JobId,
    node: str,
    directory: str,
    nonce: str,
    command: Sequence[str],
    stdin: bool,
    terminal: bool,
    ranks: bool,
) -> str:
    """For sh on the login host. node: the container's. directory: its own, absolute.

    ranks: whether all of the job is this container's, so that any process of the job will do: MPI's are no
    descendants of its script.

    Raises InvalidArgument if the command is too long.
    """
    srun = [
        *_srun(job_id, node, directory),
        *(["--pty"] if terminal else ["--unbuffered"]),
        *([] if stdin or terminal else ["--input=none"]),
        *words_on_node(nonce, command, terminal=terminal, ranks=ranks),
    ]
    words = shlex.join(srun)
    if len(words.encode("utf-8", "surrogateescape")) > LARGEST_COMMAND_BYTES:
        raise InvalidArgument(
            f"cmd: at most {LARGEST_COMMAND_BYTES // 1024} KiB can be run in a container in a cluster"
        )
    return f"exec {words}\n" if terminal else _WITH_PIPES.replace("@SRUN@", words)


def words_on_node(nonce: str, command: Sequence[str], *, terminal: bool, ranks: bool) -> tuple[str, ...]:
    """What is run there, in the container's directory, as `script_of` has it."""
    kind = ("terminal" if terminal else "pipes", "ranks" if ranks else "alone")
    return ("/bin/bash", "-c", _ON_NODE, "multicri", nonce, *kind, *command)


def attaching_words(nonce: str, *, offset: int, stdin: bool) -> tuple[str, ...]:
    """What is run on the node, in the container's directory and a terminal, to join this with the container's.

    offset: how much of its output is not wanted, in bytes.
    """
    return ("/bin/bash", "-c", _ATTACH, "multicri", nonce, str(offset), "input" if stdin else "none")


def attaching_script_of(job_id: JobId, node: str, directory: str, words: Sequence[str]) -> str:
    """The same as a step, for sh on the login host."""
    return f"exec {shlex.join((*_srun(job_id, node, directory), '--pty', *words))}\n"


def agent_script_of(way: Way, *, job_id: JobId, node: str, directory: str, nonce: str) -> str:
    """For sh on the login host: an agent that runs commands, at its stdin and stdout."""
    start = ("/bin/bash", "-c", _AGENT, "multicri", nonce, _AGENT_SOURCE)
    if way == "srun":
        words = (*_srun(job_id, node, directory), "--unbuffered", *start)
    else:
        script = f"cd {shlex.quote(directory)} && exec env SLURM_JOB_ID={job_id} {shlex.join(start)}"
        encoded = base64.b64encode(script.encode("utf-8", "surrogateescape")).decode()
        words = ("ssh", *_SSH_OPTIONS, "--", node, f"exec sh -c 'eval \"$(echo {encoded} | base64 -d)\"'")
    return _WITH_PIPES.replace("@SRUN@", shlex.join(words))


def feeding_words(nonce: str) -> tuple[str, ...]:
    """What is run on the node, in the container's directory: its stdin becomes the container's."""
    return ("/bin/bash", "-c", _FEED, "multicri", nonce)


def feeding_script_of(job_id: JobId, node: str, directory: str, words: Sequence[str]) -> str:
    """The same as a step, for sh on the login host."""
    return _WITH_PIPES.replace("@SRUN@", shlex.join((*_srun(job_id, node, directory), *words)))


def _srun(job_id: JobId, node: str, directory: str) -> tuple[str, ...]:
    return (
        *("srun", f"--jobid={job_id}", "--overlap", "-N1", "-n1", f"--nodelist={node}", f"--chdir={directory}"),
        *("--job-name=multicri-exec", "--quiet", "--mpi=none", "--cpu-bind=none"),
    )
