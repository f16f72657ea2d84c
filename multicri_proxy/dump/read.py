"""Reads JSON Lines that a dump has written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.dump.record import Record, from_json_line


@dataclass(slots=True, kw_only=True)
class DumpFiles:
    """Files in the order in which they were written. unread: places of the lines that are no records."""

    paths: Sequence[Path]
    unread: list[str] = field(default_factory=list)

    def records(self) -> Iterator[Record]:
        """Raises InvalidArgument if a file cannot be read, or if there is no record at all in one that is not empty."""
        self.unread.clear()
        for path in self.paths:
            found = 0
            lines = 0
            try:
                with path.open("rb") as file:
                    for number, line in enumerate(file, 1):
                        if not line.strip():
                            continue
                        lines += 1
                        try:
                            record = from_json_line(line)
                        except ValueError:  # cut short by a full disk, say
                            self.unread.append(f"{path}:{number}")
                            continue
                        found += 1
                        yield record
            except OSError as error:
                raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
            if lines and not found:
                raise InvalidArgument(f"{path} holds no records: only dumps of --dump-format json can be read again")

    def complaint(self) -> str:
        """About lines that could not be read; "" if all could."""
        if not self.unread:
            return ""
        return f"{len(self.unread)} lines are no records, the first is {self.unread[0]}"
