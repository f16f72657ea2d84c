"""Has a registry asked what a reference means, by a process of its own."""

import asyncio
from dataclasses import asdict

from multicri_images.question import Finding, Known, Question
from multicri_proxy.api.children import ask
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
    try:
        return await ask("multicri_images.registry", asdict(question))
    except (OSError, ValueError) as error:
        return {"error": "unreachable", "message": f"asking the registry ended early: {type(error).__name__}"}
