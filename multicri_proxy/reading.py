"""Settings are read and checked in a process of their own, while the daemon imports what serving needs.

What checks them (pydantic, YAML, the adapter's own models) takes memory that a daemon needs only for that moment.
"""

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.settings import Settings

_READING_S = 60.0


class Reading:
    """Settings on their way; reading begins at once.

    flags: by setting name, unset ones left out. environment: the process's. file: YAML; None for none.
    """

    def __init__(self, *, flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "multicri_proxy.checking"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
