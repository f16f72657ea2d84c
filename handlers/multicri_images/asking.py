"""Has a registry asked what a reference means, by a process of its own."""

import asyncio
import json
import sys
from dataclasses import asdict

from multicri_images.question import Finding, Question
from multicri_proxy.api.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable

MOST_AT_A_TIME = 4
LONGEST_ANSWER_BYTES = 1024 * 1024
_LONGEST_MESSAGE = 400


class Asking:
    """Asks, a few questions at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(MOST_AT_A_TIME)

    async def find(self, question: Question) -> Finding:
        """Raises Unavailable if the registry cannot be reached or says nothing sensible in time, NotFound,
        PermissionDenied, and FailedPrecondition for something that is no image.
        """
        place = f"{question.registry}/{question.path}, {question.reference}"
        async with self._turn:
            try:
                async with asyncio.timeout(question.timeout_s):
                    answer = await _ask(question)
            except TimeoutError as error:
                raise Unavailable(f"{place}: no answer within {question.timeout_s:g} s") from error
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
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "multicri_images.registry"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        limit=LONGEST_ANSWER_BYTES,
    )
    assert process.stdin and process.stdout  # noqa: S101  (they are pipes)
    try:
        process.stdin.write(json.dumps(asdict(question)).encode())
        process.stdin.close()
        line = await process.stdout.readline()
        answer: dict[str, object] = json.loads(line)
    except (ConnectionError, ValueError) as error:
        return {"error": "unreachable", "message": f"asking the registry ended early: {type(error).__name__}"}
    else:
        return answer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
