"""JOB_CUSTOM_CONFIG: a pod's own sbatch options, read against a list of what is allowed. Pure.

Each line is one of

    #SBATCH --time=10 -A lab        as in a job script
    --time=10                       options alone
    SBATCH_TIMELIMIT=10             sbatch's input variables, as multi-cri's documentation has it

What comes out is ``--option=value`` or ``--option``, with a value that matches the option's own pattern: nothing of
the pod's text gets into the job script in any other way.
"""

import re
import shlex
from collections.abc import Collection, Iterator

from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.job_options import ALLOWED, BY_LETTER, BY_VARIABLE, OF_AN_ADMIN, REFUSED, Option

VARIABLE = "JOB_CUSTOM_CONFIG"

_ASSIGNMENT = re.compile(r"(?:export\s+)?((?:SBATCH|SLURM)_[A-Z0-9_]+)=(.*)", re.ASCII | re.DOTALL)
_LONG = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.*))?", re.ASCII | re.DOTALL)
_TRUE = frozenset({"", "1", "yes", "true"})


def custom_options(text: str, also_allowed: Collection[str] = ()) -> tuple[str, ...]:
    """The options in a pod's JOB_CUSTOM_CONFIG, clean.

    also_allowed: long names that the settings allow beyond the list.
    Raises InvalidArgument naming the option and why it cannot be.
    """
    reader = _Reader(dict.fromkeys(also_allowed, OF_AN_ADMIN) | ALLOWED)
    options: list[str] = []
    for number, line in enumerate(re.split(r"\r\n|\n", text), start=1):
        try:
            options.extend(reader.line(line.strip(" \t")))
        except ValueError as error:
            raise InvalidArgument(f"{VARIABLE}, line {number}: {error}") from error
    return tuple(options)


class _Reader:
    def __init__(self, allowed: dict[str, Option]) -> None:
        self._allowed = allowed

    def line(self, line: str) -> Iterator[str]:
        if line.startswith("#SBATCH"):
            line = line.removeprefix("#SBATCH")
            if line and line[0] not in " \t":
                raise ValueError("after #SBATCH there must be a space")
        elif line.startswith("#"):
            return
        elif assignment := _ASSIGNMENT.fullmatch(line):
            yield self._assigned(assignment[1], assignment[2])
            return
        yield from self._options(_words(line))

    def _assigned(self, variable: str, text: str) -> str:
        values = _words(text)
        if len(values) > 1:
            raise ValueError(f"{variable} has more than one word")
        name = BY_VARIABLE.get(variable)
        if name is None:
            raise ValueError(f"{variable[:60]} is not an input variable of sbatch that stands for an allowed option")
        value = values[0] if values else ""
        option = self._option(name, variable)
        if option.is_flag or (option.value_optional and value in _TRUE):
            if value not in _TRUE:
                raise ValueError(f"{variable} must be empty, 1 or yes")
            return f"--{name}"
        return _with_value(name, option, value)

    def _options(self, words: list[str]) -> Iterator[str]:
        rest = iter(words)
        for word in rest:
            if long := _LONG.fullmatch(word):
                name, value, shown = long[1], long[2], f"--{long[1]}"
            elif len(word) >= 2 and word[0] == "-" and word[1] != "-":
                letter, attached = word[1], word[2:]
                shown = f"-{letter}"
                name, value = BY_LETTER.get(letter, ""), attached.removeprefix("=") if attached else None
            else:
                raise ValueError(f"{word[:60]!r} is not an option: each must be --name=value, --name or -x value")
            option = self._option(name, shown)
            if value is None and not option.is_flag and not option.value_optional:
                value = next(rest, None)
                if value is None:
                    raise ValueError(f"{shown} needs a value")
            if value is None:
                yield f"--{name}"
            elif option.is_flag:
                raise ValueError(f"{shown} takes no value")
            else:
                yield _with_value(name, option, value)

    def _option(self, name: str, shown: str) -> Option:
        option = self._allowed.get(name)
        if option is not None:
            return option
        if reason := REFUSED.get(name):
            raise ValueError(f"{shown} is not allowed: {reason}")
        raise ValueError(
            f"{shown} is not among the options that pods may use; an admin can add it to slurm.job_options_allowed"
        )


def _with_value(name: str, option: Option, value: str) -> str:
    if not option.takes(value):
        raise ValueError(f"--{name}: {value[:60]!r} must be {option.form.wanted}")
    return f"--{name}={value}"


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} cannot be read: {str(error).lower()}") from error
