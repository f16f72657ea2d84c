"""Which runtimes this proxy was made for. Another one may work, but its admin should know that nobody has tried."""

import re

import grpc

from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.log import Log
from multicri_proxy.calls import Call, CallFailed, Runtime
from multicri_proxy.cri.v1 import runtime_pb2 as cri

log = Log("tested")

_TESTED = {"containerd": {1, 2}, "cri-o": {1}}
"""Major versions, by the name that the runtime gives itself in Version."""

_ANSWER_TIMEOUT_S = 5.0


def why_untested(name: str, version: str) -> str | None:
    """What is unusual about a runtime; None if nothing is. version: as the runtime writes it, ``1.6.20~ds1``."""
    majors = next((majors for tested, majors in _TESTED.items() if name.startswith(tested)), None)
    if majors is None:
        return f"its name {name!r} is none of {', '.join(_TESTED)}"
    number = re.match(r"v?(\d+)\.", version)
    if number is None or int(number[1]) not in majors:
        return f"its version {version!r} is not one of {', '.join(f'{major}.x' for major in sorted(majors))}"
    return None


async def refuse_untested(endpoint: str, runtime: Runtime) -> None:
    """Ask a runtime for its name. One that does not answer yet is not asked again.

    Raises FailedPrecondition if it is one that nobody has tried.
    """
    call = Call(path="/runtime.v1.RuntimeService/Version", request=b"", timeout_s=_ANSWER_TIMEOUT_S)
    try:
        reply = await runtime.call(call)
    except CallFailed as failure:
        if failure.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            raise FailedPrecondition(f"endpoint {endpoint} is no CRI runtime: {failure.details}") from failure
        log.warning("a runtime does not answer yet; its calls will fail until it does", endpoint=endpoint)
        return
    version = cri.VersionResponse.FromString(reply.message)
    log.info("found", endpoint=endpoint, runtime=version.runtime_name, version=version.runtime_version)
    if why := why_untested(version.runtime_name, version.runtime_version):
        raise FailedPrecondition(
            f"endpoint {endpoint}: nobody has tried this runtime with multicri-proxy: {why}; "
            "--allow-untested-runtimes lets it pass"
        )
