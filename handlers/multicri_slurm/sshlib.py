"""asyncssh, from the first pod that needs it on.

Importing it takes a tenth of a second and 8 MiB (with cryptography 15), which a node without Slurm pods need not spend;
and it must not be spent by the event loop, where an ordinary pod's call would wait for it.
"""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncssh
else:

    class _Later:
        """Stands for the module, and imports it when it is first asked for something."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("asyncssh"), name)

    asyncssh = _Later()

__all__ = ["asyncssh", "load"]


async def load() -> None:
    """Import it in a thread; to be awaited before anything here is used."""
    await asyncio.to_thread(import_module, "asyncssh")
