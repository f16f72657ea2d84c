"""An MPI job: who starts its ranks, and in which words. Pure.

``srun --mpi=pmix`` starts them where the cluster's Slurm has PMIx, else the cluster's own ``mpirun $MPI_FLAGS``. Either
starts one container for each rank. MPI_FLAGS are mpirun's, so that any but the number of ranks asks for mpirun. What
Slurm offers is the login host's word: whether the nodes can do it, the job finds out.

mpirun itself runs outside of any container: only flags of a list reach it, with values of their form. A word of a pod
there could be a program, and one of its parameters the path of a library.

Source: srun(1), mpirun(1) of Open MPI and of MPICH; Open MPI speaks PMIx from 2.0 on.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_slurm.annotations import PREFIX
from multicri_slurm.precedence import values_of

SRUN = "srun"
MPIRUN = "mpirun"
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PMIX = re.compile(r"pmix(_v[0-9]+)?")
_BEFORE_PMIX = re.compile(r"[01](\.[0-9].*)?")
_RANKS = frozenset({"n", "np"})
_COUNT = r"[1-9][0-9]{0,6}"
_LAYOUT = r"[A-Za-z0-9:,=-]+"
_NETWORK = r"[A-Za-z0-9_.:^-]+(/[0-9]{1,3})?"  # a path could be written to
_PARAMETER = rf"{_NETWORK}(,{_NETWORK})*"
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "n": (_COUNT,),
    "np": (_COUNT,),
    "ppn": (_COUNT,),
    "npernode": (_COUNT,),
    "map-by": (_LAYOUT,),
    "rank-by": (_LAYOUT,),
    "bind-to": (_LAYOUT,),
    "mca": (r"(btl|coll|io|mtl|osc|pml|smsc)(_[a-z0-9_]+)?", _PARAMETER),
    "x": (r"[A-Za-z_][A-Za-z0-9_]*",),
    "oversubscribe": (),
    "use-hwthread-cpus": (),
    "report-bindings": (),
    "display-map": (),
    "tag-output": (),
}
"""mpirun's flags by their names without dashes: the form of each word that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mpi:
    """What a pod asks for.

    version: MPI_VERSION. flags: mpirun's. starter: a type of ``srun --mpi``, or mpirun. Empty if it does not say.
    """

    version: str = ""
    flags: tuple[str, ...] = ()
    starter: str = ""

    @property
    def ranks(self) -> str | None:
        """How many the flags ask for."""
        pairs = zip(self.flags, self.flags[1:], strict=False)
        return next((value for flag, value in pairs if flag.lstrip("-") in _RANKS), None)

    def job_options(self) -> tuple[str, ...]:
        """mpirun starts no more ranks than a job has tasks."""
        return (f"--ntasks={self.ranks}",) if self.ranks is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """What starts a container, or one for each rank: the words before its own.

    mpi_type: for ``srun --mpi``, if it is srun that starts them.
    instead: the words if the nodes lack that type; empty if nothing else will do.
    """

    words: tuple[str, ...] = ()
    mpi_type: str = ""
    instead: tuple[str, ...] = ()


NO_LAUNCHER = Launcher()


def read_flags(text: str) -> tuple[str, ...]:
    """MPI_FLAGS as words. Raises InvalidArgument naming the flag that is wrong, and why."""
    try:
        words = shlex.split(text)
        _check_flags(words)
    except ValueError as error:
        raise InvalidArgument(f"MPI_FLAGS={text[:80]!r}: {error}") from error
    return tuple(words)


def _check_flags(words: Sequence[str]) -> None:
    rest = iter(words)
    for word in rest:
        name = word.removeprefix("-").removeprefix("-")
        if not word.startswith("-") or name not in _FLAGS:
            raise ValueError(f"{word[:60]!r} is not among the flags that pods may use: {', '.join(_FLAGS)}")
        for form in _FLAGS[name]:
            value = next(rest, "")
            if not re.fullmatch(form, value, re.ASCII):
                raise ValueError(f"{word}: {value[:60]!r} is not a value that it takes here")


def types_named(lines: Iterable[str]) -> frozenset[str]:
    """The types in the answer of ``srun --mpi=list``: one a line, or behind a colon and parted by commas."""
    last = (word for line in lines for word in line.rpartition(":")[2].split(","))
    return frozenset(word.strip() for word in last if _TYPE.fullmatch(word.strip()))


def launcher(mpi: Mpi, offered: Collection[str], options: Sequence[str]) -> Launcher:
    """What starts the ranks.

    offered: the types that ``srun --mpi=list`` names. options: of the job, clean.
    Raises FailedPrecondition if the pod names a type that the cluster does not offer.
    """
    starter = mpi.starter or _best(mpi, offered)
    if starter == MPIRUN:
        return Launcher(words=(MPIRUN, *mpi.flags))
    if starter not in offered:
        raise FailedPrecondition(
            f"annotation {PREFIX}mpi={starter}, or the setting mpi: "
            f"the cluster's srun offers {', '.join(sorted(offered)) or 'none'}; "
            f"{MPIRUN} is the other way"
        )
    words = [SRUN, f"--mpi={starter}", "--kill-on-bad-exit=1"]
    if mpi.ranks is not None:
        words.append(f"--ntasks={mpi.ranks}")
    if (cpus := values_of(options).get("cpus-per-task")) is not None:
        words.append(f"--cpus-per-task={cpus}")  # from 22.05 on srun does not take it from the job
    return Launcher(words=tuple(words), mpi_type=starter, instead=() if mpi.starter else (MPIRUN, *mpi.flags))


def _best(mpi: Mpi, offered: Collection[str]) -> str:
    only_ranks = len(mpi.flags) == (2 if mpi.ranks is not None else 0)
    pmix = sorted(kind for kind in offered if _PMIX.fullmatch(kind))
    if pmix and only_ranks and not _BEFORE_PMIX.fullmatch(mpi.version):
        return pmix[0]  # "pmix" itself, if it is there: the newest
    return MPIRUN
