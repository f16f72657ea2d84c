"""The sbatch options that a pod may use, as data: their names, their variables, the values that they take.

A value never holds white space, quotes, ``#`` or ``\\``, so that what stands in an ``#SBATCH`` line can be read in one
way only.

Source: sbatch(1) of Slurm 22.05 to 26.05.
"""

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*"
_NUMBER = r"[0-9]{1,9}"
_DURATION = r"[0-9]{1,9}|[0-9]{1,9}(:[0-9]{1,2}){1,2}|[0-9]{1,6}-[0-9]{1,2}(:[0-9]{1,2}){0,2}|UNLIMITED|INFINITE"
_RESOURCES = r"[A-Za-z0-9_./:=,+-]+"


@dataclass(frozen=True, slots=True)
class Form:
    """What a value must match, and how to say so: "must be" what is wanted."""

    pattern: str
    wanted: str


def _one_of(*words: str) -> Form:
    return Form("|".join(words), f"one of {', '.join(words)}")


_FLAG = Form("", "empty")
_ONE_NAME = Form(_NAME, "a name of A-Z a-z 0-9 _ . @ : + -")
_NAMES = Form(rf"{_NAME}(,{_NAME})*", "a name of A-Z a-z 0-9 _ . @ : + -, or several parted by commas")
_COUNT = Form(_NUMBER, "a whole number")
_TIME = Form(_DURATION, "minutes, [hours:]minutes:seconds or days-hours[:minutes[:seconds]]")
_WHEN = Form(r"[A-Za-z0-9:/+.-]+", "a time like 16:00, 2030-01-31T12:00 or now+1hour")
_MEMORY = Form(r"[0-9]{1,12}([KkMmGgTt][Bb]?)?", "a whole number with K, M, G or T after it; M is meant without")
_HOSTS = Form(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "hosts like cn1,cn[3-5]")
_FEATURES = Form(r"[A-Za-z0-9_.:,&|()\[\]*+-]+", "features like a100&nvme")
_TRES = Form(_RESOURCES, "resources like gpu:a100:2")
_LICENSES = Form(rf"{_RESOURCES}|[A-Za-z0-9_.@:,|-]+", "licenses like matlab:2")
_LAYOUT = Form(r"[A-Za-z0-9*=:,]+", "a layout like block:cyclic")
_NODES = Form(r"[0-9]{1,7}(-[0-9]{1,7})?", "a whole number, or least-most")
_WORDS = Form(r"[A-Za-z,]+", "words parted by commas")


@dataclass(frozen=True, slots=True)
class Option:
    """form: of its value. letter: its short name. variables: its SBATCH_* variables, if any."""

    form: Form
    letter: str = ""
    variables: tuple[str, ...] = ()
    value_optional: bool = False

    @property
    def is_flag(self) -> bool:
        return not self.form.pattern

    def takes(self, value: str) -> bool:
        return re.fullmatch(self.form.pattern, value, re.ASCII) is not None


ALLOWED = {
    "account": Option(_NAMES, "A", ("SBATCH_ACCOUNT",)),
    "acctg-freq": Option(Form(r"[a-z0-9=,]+", "intervals like task=30"), "", ("SBATCH_ACCTG_FREQ",)),
    "begin": Option(_WHEN, "b"),
    "cluster-constraint": Option(_FEATURES, "", ("SBATCH_CLUSTER_CONSTRAINT",)),
    "constraint": Option(_FEATURES, "C", ("SBATCH_CONSTRAINT",)),
    "contiguous": Option(_FLAG),
    "core-spec": Option(_COUNT, "S", ("SBATCH_CORE_SPEC",)),
    "cores-per-socket": Option(_COUNT),
    "cpu-freq": Option(Form(r"[A-Za-z0-9:-]+", "a frequency like 2400000 or low-medium"), "", ("SBATCH_CPU_FREQ_REQ",)),
    "cpus-per-gpu": Option(_COUNT, "", ("SBATCH_CPUS_PER_GPU",)),
    "cpus-per-task": Option(_COUNT, "c"),
    "deadline": Option(_WHEN),
    "delay-boot": Option(_COUNT, "", ("SBATCH_DELAY_BOOT",)),
    "distribution": Option(_LAYOUT, "m", ("SBATCH_DISTRIBUTION",)),
    "exclude": Option(_HOSTS, "x"),
    "exclusive": Option(_one_of("user", "mcs", "topo", "exclusive"), "", ("SBATCH_EXCLUSIVE",), True),
    "extra-node-info": Option(Form(r"[0-9*:]+", "sockets[:cores[:threads]]"), "B"),
    "gpu-bind": Option(_TRES, "", ("SBATCH_GPU_BIND",)),
    "gpu-freq": Option(_TRES, "", ("SBATCH_GPU_FREQ",)),
    "gpus": Option(_TRES, "G", ("SBATCH_GPUS",)),
    "gpus-per-node": Option(_TRES, "", ("SBATCH_GPUS_PER_NODE",)),
    "gpus-per-socket": Option(_TRES),
    "gpus-per-task": Option(_TRES, "", ("SBATCH_GPUS_PER_TASK",)),
    "gres": Option(_TRES, "", ("SBATCH_GRES",)),
    "gres-flags": Option(
        Form(r"[a-z-]+", "one of disable-binding, enforce-binding, multiple-tasks-per-sharing, one-task-per-sharing"),
        "",
        ("SBATCH_GRES_FLAGS",),
    ),
    "hint": Option(
        _one_of("compute_bound", "memory_bound", "multithread", "nomultithread"), "", ("SBATCH_HINT", "SLURM_HINT")
    ),
    "licenses": Option(_LICENSES, "L"),
    "mail-type": Option(Form(r"[A-Z0-9_,]+", "events like END,FAIL")),
    "mail-user": Option(Form(r"[A-Za-z0-9_.+-]+@[A-Za-z0-9.-]+", "an e-mail address")),
    "mcs-label": Option(_ONE_NAME),
    "mem": Option(_MEMORY, "", ("SBATCH_MEM_PER_NODE",)),
    "mem-bind": Option(_WORDS, "", ("SBATCH_MEM_BIND",)),
    "mem-per-cpu": Option(_MEMORY, "", ("SBATCH_MEM_PER_CPU",)),
    "mem-per-gpu": Option(_MEMORY, "", ("SBATCH_MEM_PER_GPU",)),
    "mincpus": Option(_COUNT),
    "network": Option(_TRES, "", ("SBATCH_NETWORK",)),
    "nice": Option(Form(r"-?[0-9]{1,10}", "a whole number"), "", (), True),
    "nodelist": Option(_HOSTS, "w"),
    "nodes": Option(_NODES, "N"),
    "ntasks": Option(_COUNT, "n"),
    "ntasks-per-core": Option(_COUNT),
    "ntasks-per-gpu": Option(_COUNT),
    "ntasks-per-node": Option(_COUNT),
    "ntasks-per-socket": Option(_COUNT),
    "overcommit": Option(_FLAG, "O", ("SBATCH_OVERCOMMIT",)),
    "oversubscribe": Option(_FLAG, "s"),
    "partition": Option(_NAMES, "p", ("SBATCH_PARTITION",)),
    "power": Option(_ONE_NAME, "", ("SBATCH_POWER",)),
    "prefer": Option(_FEATURES, "", ("SBATCH_PREFER",)),
    "priority": Option(Form(r"[0-9]{1,10}|TOP", "a whole number, or TOP")),
    "profile": Option(_WORDS, "", ("SBATCH_PROFILE",)),
    "qos": Option(_NAMES, "q", ("SBATCH_QOS",)),
    "reservation": Option(_NAMES, "", ("SBATCH_RESERVATION",)),
    "sockets-per-node": Option(_COUNT),
    "spread-job": Option(_FLAG, "", ("SBATCH_SPREAD_JOB",)),
    "switches": Option(Form(rf"{_NUMBER}(@({_DURATION}))?", "count[@time]"), "", ("SBATCH_REQ_SWITCH",)),
    "thread-spec": Option(_COUNT, "", ("SBATCH_THREAD_SPEC",)),
    "threads-per-core": Option(_COUNT, "", ("SBATCH_THREADS_PER_CORE",)),
    "time": Option(_TIME, "t", ("SBATCH_TIMELIMIT",)),
    "time-min": Option(_TIME),
    "tmp": Option(_MEMORY),
    "tres-bind": Option(_TRES, "", ("SBATCH_TRES_BIND",)),
    "tres-per-task": Option(_TRES, "", ("SBATCH_TRES_PER_TASK",)),
    "use-min-nodes": Option(_FLAG, "", ("SBATCH_USE_MIN_NODES",)),
    "wckey": Option(_ONE_NAME, "", ("SBATCH_WCKEY",)),
}

OF_AN_ADMIN = Option(
    Form(r"[A-Za-z0-9_.:,=/@+&|()\[\]*-]*", "of A-Z a-z 0-9 _ . : , = / @ + & | ( ) [ ] * -"), "", (), True
)
"""An option that the settings allow beyond these: any harmless value, or none."""

_OWN_FILES = "the job's output is read from files of its own"
_ONE_JOB = "a container is exactly one job, found again by its name"

REFUSED = {
    "array": _ONE_JOB,
    "chdir": "the job has a directory of its own",
    "clusters": "the job must be in the cluster whose host the pod names",
    "comment": "it says which pod the job belongs to",
    "container": "the container is started by the job itself",
    "container-id": "the container is started by the job itself",
    "dependency": "--dependency=singleton guards against running a container twice",
    "error": _OWN_FILES,
    "export": "a container's environment is the pod's env",
    "export-file": "a container's environment is the pod's env",
    "get-user-env": "a container's environment is the pod's env",
    "gid": "a job runs as its account",
    "help": "it submits nothing",
    "hold": "a container that was started must be allowed to run",
    "ignore-pbs": "there is nothing to ignore",
    "input": _OWN_FILES,
    "job-name": _ONE_JOB,
    "no-kill": "a container ends with its node",
    "no-requeue": "it is always given",
    "open-mode": _OWN_FILES,
    "output": _OWN_FILES,
    "parsable": "it is always given",
    "propagate": "limits of the login host are not the container's",
    "quiet": "sbatch's words are needed",
    "requeue": "a container must not run twice",
    "reboot": "a node is not rebooted for a container",
    "signal": "signals come from StopContainer",
    "test-only": "it submits nothing",
    "uid": "a job runs as its account",
    "usage": "it submits nothing",
    "version": "it submits nothing",
    "wait": "a job is watched, not waited for",
    "wait-all-nodes": "a job is watched, not waited for",
    "wrap": "the job's script is generated",
}

BY_LETTER = {option.letter: name for name, option in ALLOWED.items() if option.letter} | {
    "a": "array",
    "D": "chdir",
    "M": "clusters",
    "d": "dependency",
    "e": "error",
    "H": "hold",
    "h": "help",
    "i": "input",
    "J": "job-name",
    "k": "no-kill",
    "o": "output",
    "Q": "quiet",
    "V": "version",
    "W": "wait",
}

BY_VARIABLE = {variable: name for name, option in ALLOWED.items() for variable in option.variables} | {
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_CLUSTERS": "clusters",
    "SBATCH_CONTAINER": "container",
    "SBATCH_CONTAINER_ID": "container-id",
    "SBATCH_ERROR": "error",
    "SBATCH_EXPORT": "export",
    "SBATCH_GET_USER_ENV": "get-user-env",
    "SBATCH_INPUT": "input",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_NO_REQUEUE": "no-requeue",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_OUTPUT": "output",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_WAIT": "wait",
    "SBATCH_WAIT_ALL_NODES": "wait-all-nodes",
}
