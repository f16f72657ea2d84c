"""Where things are unless a setting says so: root's in the system's directories, an ordinary user's in their own.

Source: XDG Base Directory Specification 0.8.
"""

import os
from collections.abc import Mapping
from pathlib import Path


def state_directory(user_id: int, environment: Mapping[str, str]) -> Path:
    """For what survives a restart."""
    if user_id == 0:
        return Path("/var/lib/multicri-proxy")
    given = environment.get("XDG_STATE_HOME", "")
    return Path(given if given.startswith("/") else f"{Path('~').expanduser()}/.local/state", "multicri-proxy")


def socket_directory(user_id: int, environment: Mapping[str, str]) -> Path:
    """For sockets."""
    if user_id == 0:
        return Path("/run")
    given = environment.get("XDG_RUNTIME_DIR", "")
    return Path(given) if given.startswith("/") else state_directory(user_id, environment)


STATE_DIRECTORY = state_directory(os.geteuid(), os.environ)
SOCKET_DIRECTORY = socket_directory(os.geteuid(), os.environ)
