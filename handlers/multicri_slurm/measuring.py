"""The part of a job's script that measures its container, where Slurm does not. Pure.

It is the job itself that looks, since it is on the node already: a step of its own for each look (``srun --overlap``)
would be one more for slurmctld to place, log and account, for each container, again and again. A look is two programs'
work for some milliseconds, and leaves one line, replaced by the next:

    usage         Unix time in ns, processor time in ns, working set and resident memory in bytes

Memory is that of the cgroup which Slurm has made for the job, or for the step in an allocation; so is processor time
where that cgroup tells it. What it does not tell, or where Slurm makes none, is the sum over the processes: all that
descend from the script, and with ``srun`` all of the job on this node. Of a job on several nodes it is the first one's.

Source: cgroups(7), cgroup-v2.rst, cgroup-v1/memory.rst, proc(5); paths as slurmstepd 22.05 to 26.05 makes them.
"""

from typing import Final, Literal

Scope = Literal["job", "step"]
"""Of which the container is all there is."""

_MEASURE: Final = r"""
multicri_cgroup_files() { # controller, empty for version 2; where it is mounted; names of files: those that are there
  local controllers path job file
  while IFS=: read -r _ controllers path; do
    case ",$controllers,$path/" in
      *",$1,"*"/job_$SLURM_JOB_ID/"*) job=$2${path%%/job_"$SLURM_JOB_ID"*}/job_$SLURM_JOB_ID ;;
      *) continue ;;
    esac
    for file in "${@:3}"; do
      case $1 in
        '') compgen -G "$job/@STEPS@/user/$file" ;; # beside it is slurmstepd
        *) compgen -G "$job@STEP@/$file" ;;
      esac
    done
    return
  done < /proc/self/cgroup
}
multicri_measure() {
  cat /proc/[0-9]*/stat | awk -v roots="$$@ROOTS@" \
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
"""

BEGIN_MEASURING: Final = r"""(
  multicri_pause=1
  while sleep "$multicri_pause" && kill -0 "$$"; do
    multicri_measure > usage.tmp && mv usage.tmp usage
    multicri_pause=$((multicri_pause < 8 ? multicri_pause * 2 : 15))
  done
) < /dev/null > /dev/null 2>&1 &
multicri_measurer=$!
"""
"""In the container's directory, with job control (``set -m``)."""
END_MEASURING: Final = """kill -- "-$multicri_measurer" 2> /dev/null
"""
"""The whole group, with its sleep."""
_TASKS: Final = """ $(scontrol listpids "$SLURM_JOB_ID" | awk 'NR > 1 { printf "%s ", $1 }')"""


def measuring_functions(scope: Scope, *, tasks: bool) -> str:
    """What `BEGIN_MEASURING` calls. tasks: whether srun starts processes for the script, which descend from slurmd."""
    return (
        _MEASURE.replace("@STEPS@", "step_$SLURM_STEP_ID" if scope == "step" else "step_*")
        .replace("@STEP@", "/step_$SLURM_STEP_ID" if scope == "step" else "")
        .replace("@ROOTS@", _TASKS if tasks else "")
    )
