"""Plug-ins, by the names of their entry points."""

from importlib.metadata import entry_points
from typing import Any

from multicri_proxy.api.errors import InvalidArgument


def plug_in(group: str, name: str) -> Any:  # each group has a factory of its own type
    """Raises InvalidArgument naming those that are installed."""
    points = {point.name: point for point in entry_points(group=f"multicri_proxy.{group}")}
    if name not in points:
        installed = ", ".join(sorted(points)) or "none"
        raise InvalidArgument(f"no plug-in {name!r} among multicri_proxy.{group}; installed: {installed}")
    return points[name].load()


def plug_ins(group: str) -> list[Any]:
    return list(named_plug_ins(group).values())


def named_plug_ins(group: str) -> dict[str, Any]:
    return {point.name: point.load() for point in entry_points(group=f"multicri_proxy.{group}")}
