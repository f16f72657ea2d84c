"""Whether a process of this machine lives.

One that has ended is to be seen until somebody reaps it: an orphan's is PID 1, which may be late, or never do it.
"""

import asyncio
from pathlib import Path


def lives(pid: int) -> bool:
    """A zombie does not. Source: proc_pid_stat(5), field 3."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(*pids: int, within_s: float = 60.0) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while any(map(lives, pids)):
            await asyncio.sleep(0.02)
