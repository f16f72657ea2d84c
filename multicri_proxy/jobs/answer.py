"""The daemon's end of ``multicri-proxy jobs``: a line for each job, then their number."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Any

from multicri_proxy.admin import Command, Connection
from multicri_proxy.runtime.jobs import Job


def jobs_command(jobs: Callable[[], AsyncIterator[Job]]) -> Command:
    """The admin command ``jobs``. jobs: all there are, from memory."""

    async def tell(fields: Mapping[str, Any], client: Connection) -> None:
        client.accept()
        number = 0
        async for job in jobs():
            await client.send(asdict(job))
            number += 1
        await client.send({"jobs": number})

    return tell
