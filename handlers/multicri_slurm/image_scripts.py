"""The remote scripts for an account's directory of images; remote_scripts.py says how such scripts come and answer.

NAME.sif, NAME.squashfs or NAME/    an image, complete: it comes by rename. NAME: the digits of the image's id
.NAME.lock            locked while it is built, used or removed
.NAME.used            touched with each use: what was not used for longest goes first
.NAME.uses/           a link to the directory of each container that uses it, there for as long as that is
.NAME.size            KiB. .NAME.sha256: of a file. .NAME.config: what the image says of itself, if no file of it does
.NAME.building*       a build, or what a build left that was killed: the next one removes it
.NAME.sending.SUM     what has come so far of an image that was built elsewhere; one that stands still goes after a day
"""

import shlex
from collections.abc import Mapping
from typing import Final

from multicri_slurm.remote_scripts import TOOLS

_TOOLS = (
    TOOLS
    + r"""
in_use() { # directory name
  for link in "$1/.$2.uses"/*; do
    [ ! -e "$link" ] || return 0
    rm -f -- "$link"
  done
  return 1
}
drop() { # directory name: an image that nobody uses; its lock is held
  mv -T -- "$1/$2.sif" "$1/.$2.building.gone" 2>/dev/null
  mv -T -- "$1/$2.squashfs" "$1/.$2.building.gone" 2>/dev/null
  mv -T -- "$1/$2" "$1/.$2.building.gone" 2>/dev/null
  wipe "$1/.$2.building"* "$1/.$2.uses" "$1/.$2.used" "$1/.$2.size" "$1/.$2.sha256" "$1/.$2.config"
}
"""
)

USE: Final = (
    _TOOLS
    + r"""
main() { # directory name suffix container's-directory check seconds
  final=$1/$2$3 own=$1/.$2
  if [ ! -e "$final" ]; then say done=missing; return; fi
  if [ ! -w "$1" ]; then say done=there; return; fi # somebody else's, for us to read
  exec 9>>"$own.lock" || return
  if [ "$5" = yes ]; then locked "$6" || return; else locked "$6" -s || return; fi
  if [ ! -e "$final" ]; then say done=missing; return; fi
  if [ "$5" = yes ] && [ -s "$own.sha256" ] && [ "$(sha256sum < "$final")" != "$(cat "$own.sha256")" ]; then
    drop "$1" "$2"
    say done=broken
    return
  fi
  (umask 077 && mkdir -p -- "$4" "$own.uses") && ln -sfn -- "$4" "$own.uses/${4##*/}" || return
  : >> "$own.used" && touch -- "$own.used" || return
  [ -s "$own.size" ] || du -sk -- "$final" | cut -f 1 > "$own.size" || return
  say "size=$(cat "$own.size")"
  say done=there
}
main "$@"
"""
)
"""Makes the container's directory. Says done=there and size=KiB, done=missing, done=broken if a file's sum is not the
one it was built with, or error=busy|unlockable. check: ``yes`` or ``no``.
"""

_EVICT = r"""
crowded() { # directory, KiB, number
  kib=0 images=0
  for size in "$1"/.*.size; do
    [ ! -s "$size" ] || { kib=$((kib + $(cat "$size"))); images=$((images + 1)); }
  done
  { [ "$2" -gt 0 ] && [ "$kib" -gt "$2" ]; } || { [ "$3" -gt 0 ] && [ "$images" -gt "$3" ]; }
}
evict() { # directory, KiB and number of images that it may have or 0, the name of one that stays
  for used in $(ls -1tr -- "$1"/.*.used 2>/dev/null); do
    crowded "$1" "${2% *}" "${2#* }" || return 0
    other=${used##*/.}
    other=${other%.used}
    [ "$other" != "$3" ] && [ -O "$used" ] || continue
    (
      exec 8>>"$1/.$other.lock"
      flock -n 8 && ! in_use "$1" "$other" || exit 1
      size=$(cat "$1/.$other.size" 2>/dev/null)
      drop "$1" "$other"
      say "evicted=$other ${size:-0}"
    ) || continue
  done
}
"""

_BUILD = r"""
finish() { # stops the time, too, in which somebody could read what is secret
  wipe "$temporary"*
}
run() { # a file to source, a command of ours, as shell text; its process group has what is left of the time
  left=$((until - $(date +%s)))
  [ "$left" -gt 0 ] || left=1
  ( . "$1" && exec timeout -k 10 "$left" sh -c "$2" ) </dev/null >>"$temporary.log" 2>&1
  code=$?
  [ "$code" != 124 ] || echo 'multicri: the time for the build is over' >> "$temporary.log"
  return "$code"
}
in_job() { # options, a line each; commands: as a job, for which sbatch waits: Slurm keeps what sbatch's environment is
  options=$1
  shift
  {
    printf '#!/bin/sh\n. %s || exit\n' "$temporary.env"
    for command; do printf '{\n%s\n} || exit\n' "$command"; done
  } > "$temporary.job"
  set -f
  IFS='
'
  set -- $options
  unset IFS
  set +f
  run /dev/null "exec sbatch --wait --quiet --job-name=$job --output=$temporary.job.log --time=$((seconds / 60 + 1)) \
    $(quoted "$@") $temporary.job"
  code=$?
  scancel --quiet --name="$job" --user="$(id -un)" 2>/dev/null
  cat -- "$temporary.job.log" >> "$temporary.log" 2>/dev/null
  return "$code"
}
quoted() { # words of A-Z a-z 0-9 and = - : , . and such: none has a quote
  for word; do printf "'%s' " "$word"; done
}
main() { # directory name suffix seconds most where options command...
  directory=$1 name=$2 suffix=$3 seconds=$4 most=$5 where=$6 options=$7
  final=$directory/$name$suffix own=$directory/.$name temporary=$directory/.$name.building$suffix
  job=multicri-build-$(printf %.16s "$name")
  shift 7
  if [ -e "$final" ]; then say done=there; return; fi
  mkdir -p -- "$directory" || return
  exec 9>>"$own.lock" || return
  locked "$seconds" || return
  if [ -e "$final" ]; then say done=there; return; fi
  until=$(($(date +%s) + seconds))
  if [ "$where" = job ]; then # one of ours may have outlived its script
    scancel --quiet --name="$job" --user="$(id -un)" 2>/dev/null
    while [ -n "$(squeue -h -n "$job" -u "$(id -un)" -o %i 2>/dev/null)" ] && [ "$(date +%s)" -lt "$until" ]; do
      sleep 1
    done
  fi
  wipe "$own.building"*
  trap finish EXIT
  (umask 077 && prepare) || return
  if [ "$where" = job ]; then
    in_job "$options" "$@"
  else
    for command; do run "$temporary.env" "$command" || break; done
  fi
  if [ "$code" != 0 ] || [ ! -e "$temporary" ]; then
    [ "$code" -le 128 ] || [ "$code" -gt 192 ] || echo "multicri: killed by signal $((code - 128))" >> "$temporary.log"
    tail -c 6000 -- "$temporary.log" | say_lines log
    say error=failed
    return
  fi
  if [ -d "$temporary" ]; then sync -f -- "$temporary" || return
  else
    sync -- "$temporary" || return
    sha256sum < "$temporary" > "$own.sha256" || return
  fi
  if [ -e "$temporary.config" ]; then mv -T -- "$temporary.config" "$own.config" || return; fi
  du -sk -- "$temporary" | cut -f 1 > "$own.size" || return
  : > "$own.used" && mv -T -- "$temporary" "$final" && sync -- "$directory" || return
  say "size=$(cat "$own.size")"
  say done=built
  evict "$directory" "$most" "$name"
}
main "$@"
"""

ARRIVE: Final = (
    _TOOLS
    + _EVICT
    + r"""
unpack() { # file directory
  unsquashfs -no-progress -no-xattrs -d "$2" "$1" </dev/null >"$2.log" 2>&1 && return
  tail -c 2000 -- "$2.log" | say_lines log
  wipe "$2"*
  say error=failed
  return 1
}
main() { # directory name suffix file sum seconds most
  final=$1/$2$3 own=$1/.$2
  find "$1" -maxdepth 1 -name '.*.sending.*' -mmin +1440 -exec rm -f -- {} +
  exec 9>>"$own.lock" || return
  locked "$6" || return
  if [ -e "$final" ]; then wipe "$4"; say done=there; return; fi
  if [ "$(sha256sum < "$4")" != "$5  -" ]; then wipe "$4"; say done=broken; return; fi
  wipe "$own.building"*
  made=$4
  if [ -z "$3" ]; then
    made=$own.building
    unpack "$4" "$made" || return
    sync -f -- "$made" || return
  else
    sync -- "$4" || return
    printf '%s  -\n' "$5" > "$own.sha256" || return
  fi
  du -sk -- "$made" | cut -f 1 > "$own.size" || return
  : > "$own.used" && mv -T -- "$made" "$final" && sync -- "$1" || return
  wipe "$4" "$own.building"*
  say "size=$(cat "$own.size")"
  say done=built
  evict "$1" "$7" "$2"
}
main "$@"
"""
)
"""Makes an image of a file that has come; of a squashfs file a directory, if the image has no suffix.

Says done=there, done=built and size=KiB, evicted=NAME KiB, done=broken if the file is not what was sent,
error=busy|unlockable, or error=failed with lines of log.
"""

LOOK: Final = (
    TOOLS
    + r"""
main() { # volume file kind
  top=$(realpath -e -- "$1" 2>/dev/null) && file=$(realpath -e -- "$1/$2" 2>/dev/null) || { say done=missing; return; }
  case $file in "$top"/*) ;; *) say done=outside; return;; esac
  [ -f "$file" ] && [ -r "$file" ] || { say done=unreadable; return; }
  if [ "$3" = local-def-file ]; then
    [ "$(stat -c %s -- "$file")" -le 1048576 ] || { say done=large; return; }
    say "sum=$(sha256sum < "$file")"
    say done=definition
  elif [ "$(dd if="$file" bs=1 skip=32 count=9 2>/dev/null)" = SIF_MAGIC ]; then say done=sif
  elif [ "$(head -c 4 -- "$file")" = hsqs ]; then
    ! unsquashfs -cat "$file" ch/environment >/dev/null 2>&1 || say environment=yes
    say "config=$(unsquashfs -cat "$file" ch/config.pulled.json 2>/dev/null | head -c 200000 | base64 -w 0)"
    say done=squashfs
  else say done=unknown
  fi
}
main "$@"
"""
)
"""Says done=sif, done=squashfs with environment=yes and config=base64 of what Charliecloud keeps in it, or
done=definition with its sum; else done=missing|outside|unreadable|large|unknown.
"""

VERIFY: Final = (
    TOOLS
    + r"""
main() { # program file keys-in-base64
  keys=$(mktemp -d) || return
  trap 'wipe "$keys"' EXIT
  export APPTAINER_KEYSDIR="$keys" SINGULARITY_KEYSDIR="$keys"
  printf %s "$3" | base64 -d > "$keys/import" && "$1" key import "$keys/import" >"$keys/log" 2>&1 </dev/null &&
    "$1" verify --local "$2" >"$keys/log" 2>&1 </dev/null
  code=$?
  [ "$code" = 0 ] || tail -n 3 -- "$keys/log" | say_lines log
  sed -n 's/.*Fingerprint: *//p' "$keys/log" | say_lines fingerprint
  if [ "$code" = 0 ]; then say done=verified; else say done=unverified; fi
}
main "$@"
"""
)
"""Says done=verified, or done=unverified with the end of the program's log, and fingerprints of who has signed."""

FORGET: Final = (
    _TOOLS
    + r"""
main() { # directory name
  if [ ! -e "$1/$2" ] && [ ! -e "$1/$2.sif" ] && [ ! -e "$1/$2.squashfs" ]; then say done=forgotten; return; fi
  exec 9>>"$1/.$2.lock" || return
  flock -n 9 || { say done=used; return; }
  if in_use "$1" "$2"; then say done=used; return; fi
  drop "$1" "$2"
  say done=forgotten
}
main "$@"
"""
)
"""Says done=forgotten, or done=used if it is still needed or being built."""


def build_script(files: Mapping[str, bytes]) -> str:
    """The script that builds an image. files: by path, to be written for the account alone, and to be gone afterwards.

    Args: directory, name, suffix, seconds, the KiB and the number of images that there may be in one word (0: no
    limit), ``login`` or ``job``, options of sbatch, one a line; then commands, which are shell text of ours.
    Says done=there or done=built and size=KiB, evicted=NAME KiB, error=busy|unlockable, or error=failed with lines of
    log.
    """
    writes = [f"printf %s {shlex.quote(text.decode())} > {shlex.quote(path)}" for path, text in files.items()]
    prepare = " &&\n".join((":", *writes))
    return f"{_TOOLS}{_EVICT}prepare() {{\n{prepare}\n}}\n{_BUILD}"


def environment_file(environment: Mapping[str, str]) -> bytes:
    """A file that a shell sources. Its last command succeeds."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()).encode() + b":\n"
