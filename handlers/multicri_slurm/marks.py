"""Where the output of a command in a container begins and ends, among all that login shells and Slurm say. Pure.

The script that runs it says lines of its own before and after: ``multicri-NONCE:WORD``.
"""

LONGEST_NOISE_BYTES = 2048
LONGEST_WORD_BYTES = 200

BEGIN = "begin"


class Marks:
    """One stream. noise: what came before its begin. word: the last one that was said after it; empty until then."""

    def __init__(self, nonce: str) -> None:
        self._mark = f"multicri-{nonce}:".encode()
        self._rest = b""
        self.begun = False
        self.noise = b""
        self.word = ""

    def take(self, data: bytes) -> bytes:
        """What of it is the command's own, with what was kept back of earlier data."""
        self._rest += data
        if not self.begun:
            self._until_begin()
        return self._own() if self.begun else b""

    def end(self) -> bytes:
        """What was kept back, and is the command's own after all: nothing more comes."""
        rest, self._rest = self._rest, b""
        if not self.begun:
            self.noise = (self.noise + rest)[-LONGEST_NOISE_BYTES:]
            return b""
        return b"" if self.word else rest

    def _until_begin(self) -> None:
        while not self.begun and b"\n" in self._rest:
            line, _, self._rest = self._rest.partition(b"\n")
            _, mark, word = line.partition(self._mark)
            if not mark:
                self.noise = (self.noise + line + b"\n")[-LONGEST_NOISE_BYTES:]
            elif word.strip() == BEGIN.encode():
                self.begun = True
            else:
                self.word = _text(word)
        if not self.begun and len(self._rest) > LONGEST_NOISE_BYTES:
            self._rest = self._rest[-LONGEST_NOISE_BYTES:]

    def _own(self) -> bytes:
        if self.word:
            self._rest = b""  # after the last word Slurm alone speaks
            return b""
        own, mark, word = self._rest.partition(self._mark)
        if mark:
            self._rest = mark + word
            line, newline, _ = word.partition(b"\n")
            if newline:
                self.word, self._rest = _text(line), b""
            return own
        kept = self._may_be_mark()
        own, self._rest = self._rest[: len(self._rest) - kept], self._rest[len(self._rest) - kept :]
        return own

    def _may_be_mark(self) -> int:
        """How many bytes at the end may be the first ones of a mark."""
        for length in range(min(len(self._mark) - 1, len(self._rest)), 0, -1):
            if self._rest.endswith(self._mark[:length]):
                return length
        return 0


def _text(word: bytes) -> str:
    return word[:LONGEST_WORD_BYTES].decode("utf-8", "replace").strip()
