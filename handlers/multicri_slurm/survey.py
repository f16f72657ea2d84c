"""The remote script that looks at everything a pod needs in a cluster, and leaves nothing behind.

As in remote_scripts.py: a constant, sent on stdin, a function that the last line calls, answers behind ``multicri:``.
"""

from typing import Final

SURVEY: Final = r"""
say() { printf 'multicri:%s\n' "$1"; }
say_lines() { # name: stdin, line by line
  while IFS= read -r line || [ -n "$line" ]; do printf 'multicri:%s=%s\n' "$1" "$line"; done
}
limited() { timeout 25 "$@" < /dev/null 2>&1; }
try() { # name, command...: says NAME=0 or its code, and its lines as NAME-line
  name=$1
  shift
  answer=$(limited "$@")
  say "$name=$?"
  printf '%s\n' "$answer" | head -n 20 | say_lines "$name-line"
}
writable() { # directory: says its room in KiB, or why it cannot be written to
  made=
  path=$1
  while [ ! -d "$path" ]; do
    made="$made $path"
    path=$(dirname -- "$path")
  done
  if answer=$( (umask 077 && mkdir -p -- "$1" && : > "$1/.multicri-check-$$") 2>&1); then
    say "room=$(df -Pk -- "$1" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)"
    flocks "$1/.multicri-check-$$"
    rm -f -- "$1/.multicri-check-$$"
  else
    say "unwritable=$1: $answer"
  fi
  for path in $made; do rmdir -- "$path"; done 2> /dev/null
}
flocks() { # file: a lock that is held must keep another one out
  exec 8>> "$1" 9>> "$1"
  if flock -n 8 && ! flock -n 9; then say flock=0; else say flock=1; fi
  exec 8>&- 9>&-
}
main() { # working directory, image directory, sbatch options in one word, programs...
  cd || exit 1
  set -f # options hold brackets, and nothing here is a pattern
  say "home=$HOME"
  say "now_ns=$(date +%s%N)"
  work=$1 images=$2 options=$3
  shift 3
  case $images in /*) ;; *) images=$HOME/$images ;; esac
  try version sbatch --version
  try ping scontrol ping
  try test sbatch --test-only $options --wrap=true
  for program; do
    ! command -v -- "$program" > /dev/null 2>&1 || try "runtime-$program" "$program" --version
  done
  writable "$HOME/$work"
  writable "$images"
  try accounting sacct -X -n -P -S now-1hour -o JobIDRaw
  try mpi srun --mpi=list
  for program in squeue scancel flock; do
    command -v "$program" > /dev/null 2>&1 || say "missing=$program"
  done
  say done=survey
}
main "$@"
"""
