"""Has a registry asked what a reference means, by a process of its own."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import asdict

from multicri_images.question import Finding, Known, Question
from multicri_proxy.api.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable

MOST_AT_A_TIME = 4
_LONGEST_MESSAGE = 400


class Silent(Unavailable):
    """There was no answer in time."""


class Asking:
    """Asks, a few questions at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(MOST_AT_A_TIME)

    async def find(self, question: Question) -> Finding | Known:
        """Raises Unavailable if the registry cannot be reached, Silent if it says nothing in time, NotFound,
        PermissionDenied, and FailedPrecondition for something that is no image.
        """
        place = f"{question.registry}/{question.path}, {question.reference}"
        async with self._turn:
            try:
                async with asyncio.timeout(question.timeout_s):
                    answer = await _ask(question)
            except TimeoutError as error:
                raise Silent(f"{place}: no answer within {question.timeout_s:g} s") from error
        if answer.keys() == {"digest"}:
            return Known(digest=str(answer["digest"]))
        if "error" not in answer:
            words = {name: tuple(value) if isinstance(value, list) else value for name, value in answer.items()}
            return Finding(**words)  # type: ignore[arg-type]
        message = f"{place}: {answer['message']}"[:_LONGEST_MESSAGE]
        match answer["error"]:
            case "missing":
                raise NotFound(message)
            case "denied":
                raise PermissionDenied(message)
            case "unusable":
                raise FailedPrecondition(message)
            case _:
                raise Unavailable(message)


async def _ask(question: Question) -> dict[str, object]:
    child = _Child()
    try:
        line = await asyncio.to_thread(child.answer, json.dumps(asdict(question)).encode())
        answer: dict[str, object] = json.loads(line)
    except (OSError, ValueError) as error:
        return {"error": "unreachable", "message": f"asking the registry ended early: {type(error).__name__}"}
    else:
        return answer
    finally:
        child.kill()


class _Child:
    """One process. Not asyncio's: that forks, which gRPC's threads have a hard time with; subprocess does not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def answer(self, question: bytes) -> bytes:
        """Blocks until it has said everything, or is killed."""
        with self._lock:
            if self._killed:
                return b""
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "multicri_images.registry"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        return self._process.communicate(question)[0]

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()
