"""How a remote command ended, as it goes out on the error stream.

Source: metav1.Status; Kubernetes' remotecommand protocol v4. Older ones have a text instead, and none for success.
"""

import json
from dataclasses import dataclass

_FIRST_WITH_STATUS = 4


@dataclass(frozen=True, slots=True)
class Ending:
    """exit_code: of the process. failure: why there is none; empty if there is one."""

    exit_code: int = 0
    failure: str = ""


def written(ending: Ending, version: int) -> bytes:
    """What the error stream says. version: of the remotecommand protocol."""
    status: dict[str, object] = {"metadata": {}, "status": "Success"}
    message = ""
    if ending.failure:
        message = f"Internal error occurred: {ending.failure}"
        details = {"causes": [{"message": ending.failure}]}
        status |= {"status": "Failure", "message": message, "reason": "InternalError", "details": details, "code": 500}
    elif ending.exit_code:
        message = f"command terminated with non-zero exit code: {ending.exit_code}"
        details = {"causes": [{"reason": "ExitCode", "message": str(ending.exit_code)}]}
        status |= {"status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": details}
    return json.dumps(status).encode() if version >= _FIRST_WITH_STATUS else message.encode()
