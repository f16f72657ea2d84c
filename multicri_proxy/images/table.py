"""Images as people read them: one line for each name, columns as wide as they must be."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEADINGS = ("IMAGE", "ID", "SIZE", "CONTAINERS", "BUILT")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def table(images: Sequence[Mapping[str, Any]]) -> str:
    """images: as the daemon tells them. A dash stands for what is not known."""
    rows = [_HEADINGS, *(row for image in images for row in _rows(image))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def size_text(size_bytes: int) -> str:
    """In units of 1000, as ``crictl images`` has it; a dash for 0."""
    if not size_bytes:
        return "-"
    size, unit = float(size_bytes), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g}{_UNITS[unit]}"


def shown(text: str) -> str:
    """Nothing that somebody else wrote moves the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _rows(image: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = image["names"] or image["digests"] or ["-"]
    pinned = " (pinned)" if image["pinned"] else ""
    facts = (image["id"].removeprefix("sha256:")[:13], size_text(image["size_bytes"]), str(image["containers"]))
    return [(f"{shown(name)}{pinned}", *facts, _built(image["builds"])) for name in names]


def _built(builds: Sequence[Mapping[str, Any]]) -> str:
    """In how many places of those that wanted it, and how far it is in another."""
    if not builds:
        return "-"
    text = f"{sum(build['state'] == 'built' for build in builds)}/{len(builds)}"
    building = [build for build in builds if build["state"] == "building"]
    if not building:
        return text
    done, of = building[0]["done_bytes"], building[0]["of_bytes"]
    return f"{text}, building {100 * done // of}%" if of else f"{text}, building"
