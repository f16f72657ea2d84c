"""Settings are read and checked in a process of their own, while the daemon imports what serving needs.

What checks them (pydantic, YAML, the adapter's own models) takes memory that a daemon needs only for that moment.
"""

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from multicri_proxy.api.adapter import SettingsCheck
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.plugins import plug_in
from multicri_proxy.settings import Settings

_READING_S = 60.0


class Reading:
    """Settings on their way; reading begins at once.

    flags: by setting name, unset ones left out. environment: the process's. file: YAML; None for none.
    """

    def __init__(self, *, flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdin  # noqa: S101  (it is a pipe)
        pickle.dump((dict(flags), dict(environment), file), self._child.stdin)
        self._child.stdin.close()
        self._child.stdin = None

    def settings(self) -> Settings:
        """Wait for them. Raises InvalidArgument, which names the setting and its source."""
        try:
            answer, _ = self._child.communicate(timeout=_READING_S)
            found = pickle.loads(answer)  # noqa: S301  (our own child's)
        except (subprocess.TimeoutExpired, EOFError, pickle.UnpicklingError) as error:
            self._child.kill()
            self._child.wait()
            raise FailedPrecondition(f"the settings could not be read: {type(error).__name__}") from error
        if isinstance(found, Settings):
            return found
        raise InvalidArgument(found)


def main(question: IO[bytes], answer: IO[bytes]) -> None:
    """The child."""
    from multicri_proxy.checking import load  # noqa: PLC0415  (the daemon imports this module too)

    flags, environment, file = pickle.load(question)  # noqa: S301  (the daemon's own)
    found: Settings | str
    try:
        found = load(flags=flags, environment=environment, file=file)
        _check_adapter(found)
    except InvalidArgument as error:
        found = str(error)
    pickle.dump(found, answer)


def _check_adapter(settings: Settings) -> None:
    """Have the adapter check its own section."""
    check: SettingsCheck = plug_in("adapter_settings", settings.adapter_name)
    check(settings.adapters.get(settings.adapter_name, {}), settings.handler)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
