"""The remote script that tries a compute node out, with a job; it leaves nothing behind.

As in remote_scripts.py: constants, sent on stdin, a function that the last line calls, answers behind ``multicri:``.

The container that the job runs needs no registry: its image is an empty tree, into which the host's own programs are
mounted. It is made as images are, where they are, and read by the node as theirs are.
"""

import shlex
from typing import Final

from multicri_slurm.prerun import with_prerun

TRIAL_S: Final = 180
"""How long the job may take, from its submit to its end."""

_IN_BOTH: Final = r"""
say() { printf 'multicri:%s\n' "$1"; }
say_lines() { # name: stdin, line by line
  while IFS= read -r line || [ -n "$line" ]; do printf 'multicri:%s=%s\n' "$1" "$line"; done
}
try() { # name, command...: says NAME=0 or its code, and its lines as NAME-line
  name=$1
  shift
  answer=$(timeout 60 "$@" < /dev/null 2>&1)
  code=$?
  say "$name=$code"
  printf '%s\n' "$answer" | head -n 20 | say_lines "$name-line"
  return "$code"
}
settle() { # directory: what a runtime would keep in the account's home for good it keeps there
  export APPTAINER_CONFIGDIR="$1/config" SINGULARITY_CONFIGDIR="$1/config"
}
build() { # program, directory: makes its image of its tree
  case $1 in
    ch-run) try build mv "$2/tree" "$2/image" ;;
    *) try build "$1" --quiet build --disable-cache "$2/image" "$2/tree" ;;
  esac
}
"""

_ON_NODE: Final = r"""
in_container() { # program, image: a shell of the host's says a word in a container
  binds=
  case $1 in
    ch-run)
      for top in usr bin sbin lib lib32 lib64; do
        [ -L "/$top" ] || [ ! -d "/$top" ] || binds="$binds --bind=/$top:/$top"
      done
      try container ch-run '--unset-env=*' $binds "$2" -- /bin/sh -c 'echo inside'
      ;;
    *)
      for top in usr bin sbin lib lib32 lib64; do
        [ -L "/$top" ] || [ ! -d "/$top" ] || binds="$binds --bind /$top"
      done
      try container "$1" --quiet exec --containall --cleanenv --no-home $binds "$2" /bin/sh -c 'echo inside'
      ;;
  esac
}
main() { # program, directory of the image, whether images are built by jobs
  say "node=${SLURMD_NODENAME:-$(uname -n)}"
  settle "$2"
  if command -v "$1" > /dev/null 2>&1; then try runtime "$1" --version; else say runtime=missing; fi
  ! command -v unshare > /dev/null 2>&1 || try namespaces unshare --user --map-root-user true
  try image-place ls -d "$2"
  [ "$3" != job ] || build "$1" "$2"
  [ ! -e "$2/image" ] || in_container "$1" "$2/image"
  say done=node
}
main "$@"
"""

_ON_LOGIN: Final = r"""
tree() { # directory: an empty one, but for links like the host's
  mkdir -p "$1" && cd "$1" || return
  mkdir dev etc home mnt proc root run sys tmp usr var var/tmp
  touch etc/passwd etc/group etc/hosts etc/resolv.conf etc/localtime
  for top in bin sbin lib lib32 lib64; do
    if [ -L "/$top" ]; then cp -P "/$top" .; elif [ -d "/$top" ]; then mkdir "$top"; fi
  done
  cd
}
clean() {
  trap - EXIT
  [ -z "$job" ] || scancel "$job" 2> /dev/null
  for path in "$place" "$directory"; do
    chmod -R u+rwX -- "$path"
    rm -rf -- "$path"
  done 2> /dev/null
  for path in $made; do rmdir -- "$path"; done 2> /dev/null
}
making() { # directory: which ones are to be made for it
  path=$1
  while [ ! -d "$path" ]; do
    made="$made $path"
    path=$(dirname -- "$path")
  done
}
follow() { # until the job is over, or the time
  until=$(($(date +%s) + @LIMIT@))
  while [ "$(date +%s)" -lt "$until" ]; do
    state=$(squeue -h -t all -j "$job" -o '%T %r' 2>&1) || case $state in *nvalid*) return ;; esac
    case $state in
      '' | slurm_* | squeue* | PENDING* | RUNNING* | CONFIGURING* | COMPLETING* | SUSPENDED*) sleep 1 ;;
      *) return ;;
    esac
  done
  say "late=${state:-no word of it}"
}
main() { # working directory, image directory, program, whether images are built by jobs, sbatch options in one word
  cd || exit 1
  set -f # options hold brackets, and nothing here is a pattern
  case $2 in /*) place=$2 ;; *) place=$HOME/$2 ;; esac
  directory=$HOME/$1/.multicri-check-$$ place=$place/.multicri-check-$$ made= job=
  making "$HOME/$1"
  making "${place%/*}"
  trap clean EXIT
  trap exit HUP INT TERM
  umask 077
  if ! answer=$( (mkdir -p "$directory" && tree "$place/tree") 2>&1); then
    printf '%s\n' "$answer" | say_lines trial-line
    return
  fi
  settle "$place"
  [ "$4" = job ] || build "$3" "$place" || { say done=trial; return; }
  printf '#!/bin/bash\nset -- %s "%s" %s\n%s\n' "$3" "$place" "$4" @JOB@ > "$directory/job.sh"
  if ! answer=$(sbatch --parsable $5 --job-name=multicri-check --chdir="$directory" --output="$directory/said" \
    --no-requeue --time=5 "$directory/job.sh" 2>&1 < /dev/null); then
    printf '%s\n' "$answer" | say_lines refused
    say done=trial
    return
  fi
  job=$(printf '%s\n' "$answer" | tail -n 1)
  job=${job%%;*}
  say "job=$job"
  follow
  tries=0
  until grep -q '^multicri:done=node' "$directory/said" 2> /dev/null || [ "$tries" -ge 10 ]; do
    ls -a "$directory" > /dev/null # a network file system is made to look again
    tries=$((tries + 1))
    sleep 0.5
  done
  grep -a '^multicri:' "$directory/said" 2> /dev/null
  grep -a -v '^multicri:' "$directory/said" 2> /dev/null | tail -n 5 | say_lines said
  say done=trial
}
main "$@"
"""


def trial_script(prerun: bytes | None) -> str:
    """For sh on the login host. prerun: what each job sources first.

    Says job, node, done=trial, and of each thing its code and lines; refused, late or prerun if it came to nothing, and
    lines of what the job said instead.
    """
    _, job = with_prerun(f"{_IN_BOTH}{_ON_NODE}", prerun)
    return f"{_IN_BOTH}{_ON_LOGIN.replace('@LIMIT@', str(TRIAL_S)).replace('@JOB@', shlex.quote(job))}"
