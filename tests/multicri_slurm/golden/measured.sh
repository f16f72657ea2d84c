#!/bin/bash
#SBATCH --job-name=multicri-c0ffee
#SBATCH --comment=default/pod/main
#SBATCH --chdir=/home/alice/multi-cri/5a4d/c0ffee
#SBATCH --output=/home/alice/multi-cri/5a4d/c0ffee/slurm.out
#SBATCH --no-requeue
#SBATCH --dependency=singleton

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

multicri_cgroup_files() { # controller, empty for version 2; where it is mounted; names of files: those that are there
  local controllers path job file
  while IFS=: read -r _ controllers path; do
    case ",$controllers,$path/" in
      *",$1,"*"/job_$SLURM_JOB_ID/"*) job=$2${path%%/job_"$SLURM_JOB_ID"*}/job_$SLURM_JOB_ID ;;
      *) continue ;;
    esac
    for file in "${@:3}"; do
      case $1 in
        '') compgen -G "$job/step_*/user/$file" ;; # beside it is slurmstepd
        *) compgen -G "$job/$file" ;;
      esac
    done
    return
  done < /proc/self/cgroup
}
multicri_measure() {
  cat /proc/[0-9]*/stat | awk -v roots="$$" \
    -v ticks="$(getconf CLK_TCK)" -v page="$(getconf PAGESIZE)" '
    /^[0-9]+ .*\) / {
      pid = $1
      sub(/.*\) /, "") # a name may hold anything
      parent[pid] = $2
      cpu[pid] = ($12 + $13 + $14 + $15) * 1000000000 / ticks
      resident[pid] = $22 * page
    }
    END {
      for (count = split(roots, root); count > 0; count--) ours[root[count]] = 1
      for (pid in parent) {
        for (one = pid; one + 0 > 1 && !(one in ours) && depth[pid]++ < 1000; ) one = parent[one]
        if (one in ours) { all_cpu += cpu[pid]; all_resident += resident[pid] }
      }
      printf "%.0f %.0f\n", all_cpu, all_resident
    }' | {
    read -r multicri_cpu multicri_resident
    awk -v now="$(date +%s%N)" -v cpu="$multicri_cpu" -v memory="$multicri_resident" -v resident="$multicri_resident" '
      FILENAME ~ /cpu\.stat$/ && $1 == "usage_usec" { told_cpu += $2 * 1000 }
      FILENAME ~ /cpuacct\.usage$/ { told_cpu += $1 }
      FILENAME ~ /(memory\.current|usage_in_bytes)$/ { told_memory += $1 }
      FILENAME ~ /memory\.stat$/ && $1 == inactive { cache += $2 }
      FILENAME ~ /memory\.stat$/ && $1 == anonymous { told_resident += $2 }
      END {
        if (told_cpu > 0) cpu = told_cpu
        if (told_memory > cache) { memory = told_memory - cache; resident = told_resident }
        printf "%s %.0f %.0f %.0f\n", now, cpu, memory, resident
      }' \
      inactive=inactive_file anonymous=anon \
      $(multicri_cgroup_files '' /sys/fs/cgroup cpu.stat memory.current memory.stat) \
      inactive=total_inactive_file anonymous=total_rss \
      $(multicri_cgroup_files memory /sys/fs/cgroup/memory memory.usage_in_bytes memory.stat) \
      $(multicri_cgroup_files cpuacct /sys/fs/cgroup/cpuacct cpuacct.usage) /dev/null
  }
}

case $multicri_signalled in
  TERM) multicri_finish 143 Cancelled ;;
  KILL) multicri_finish 137 Cancelled ;;
esac
printf '%s %s\n' "$SLURM_JOB_ID" "$(date +%s%N)" > started.tmp && mv started.tmp started
set -m # a process group of its own for the container
(
  multicri_pause=1
  while sleep "$multicri_pause" && kill -0 "$$"; do
    multicri_measure > usage.tmp && mv usage.tmp usage
    multicri_pause=$((multicri_pause < 8 ? multicri_pause * 2 : 15))
  done
) < /dev/null > /dev/null 2>&1 &
multicri_measurer=$!
( # The status of a process that ends just when a trap interrupts `wait` is lost to bash. Here nobody uses that.
  multicri_told=
  trap multicri_told=TERM TERM # of which Slurm tells every process, when a job's time is up
  (
    printf '%s\n' "$BASHPID" "$multicri_working_dir" > process.tmp && mv process.tmp process
    umask 022
    exec apptainer --quiet exec --containall --cleanenv --no-eval --writable-tmpfs --pwd / --env-file env /home/alice/multi-cri/images/0123.sif /bin/true
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
kill -- "-$multicri_measurer" 2> /dev/null
multicri_finish "$multicri_code" Exited
