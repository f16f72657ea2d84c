"""What must be set before gRPC is imported: its poller, and glibc's allocator. tests/benchmarks has the figures."""

import ctypes
import os

_MIB = 1 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h, mallopt(3)

_POLLER = "-event_engine_client,-event_engine_listener"
"""gRPC's older poller hands a call over between fewer threads: a small call takes a third less time and CPU."""


def tune() -> None:
    """For the whole process. What the admin has set in the environment stays."""
    os.environ.setdefault("GRPC_EXPERIMENTS", _POLLER)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        # one arena for all threads, and large messages from the heap: lists of 1,000 containers come each second
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 8 * _MIB)
