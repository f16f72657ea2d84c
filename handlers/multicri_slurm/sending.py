"""Sends a file over SSH: a program of its own, with a connection of its own, at low priority."""

import asyncio
import base64
import json
import os
import pickle
import sys
from collections.abc import Callable
from threading import Thread
from typing import IO

from multicri_proxy.api.children import end_with_who_asks
from multicri_proxy.api.errors import MulticriError
from multicri_slurm import sshlib
from multicri_slurm.cluster import Cluster
from multicri_slurm.dialing import Dialer
from multicri_slurm.host_keys import KnownHosts
from multicri_slurm.image_sending import copy
from multicri_slurm.keys import Keys
from multicri_slurm.ssh import Connection

NICENESS = 10


async def _send(who: str, path: str, sent: str, offset: int, arrived: Callable[[int], None]) -> dict[str, object]:
    login, profile = pickle.loads(base64.b64decode(who))  # noqa: S301  (it is the daemon's)
    await sshlib.load()
    connection = Connection(login, Dialer(profile, KnownHosts(), Keys()))
    cluster = Cluster(login, connection, profile.settings)
    try:
        return {"errors": await copy(cluster, path, sent, offset, arrived)}
    except MulticriError as error:
        return {"error": type(error).__name__, "message": str(error)}
    finally:
        await connection.close()


def main(question: IO[bytes], answer: IO[str]) -> None:
    """The program."""
    asked = json.loads(question.readline())
    Thread(target=end_with_who_asks, args=(question,), daemon=True).start()
    os.nice(NICENESS)

    def arrived(done: int) -> None:
        answer.write(f"{done}\n")
        answer.flush()

    answer.write(json.dumps(asyncio.run(_send(**asked, arrived=arrived))) + "\n")


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout)
