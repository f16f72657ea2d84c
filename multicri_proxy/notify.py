"""Tells systemd how the daemon is. Without systemd it does nothing. Source: sd_notify(3), sd_watchdog_enabled(3)."""

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemd:
    """address: of the socket that systemd listens on; empty for none. watchdog_s: how often it wants a sign, or 0."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Systemd":
        """What systemd has told this process, if it is the one that was meant."""
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        return cls(
            address=environment.get("NOTIFY_SOCKET", ""),
            watchdog_s=int(microseconds) / _MICROSECONDS if watched and microseconds.isdecimal() else 0.0,
        )

    def ready(self, status: str) -> None:
        self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    async def keep_awake(self) -> None:
        """Give a sign twice in each of the watchdog's intervals, for as long as the event loop turns."""
        while self.watchdog_s:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _say(self, message: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            try:
                notify.sendto(message.encode(), address)
            except OSError:
                return  # a systemd that does not listen is no reason to stop serving the kubelet
