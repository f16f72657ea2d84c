"""A further door of the bed's registry, to the same images: with a password, or without TLS."""

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import Daemon
from testbed.registry import Registry

USER, PASSWORD = "science", "scipw"
_HTPASSWD = f"{USER}:$2b$04$KTb2nFBlsAwV9xcWRnR1fe.AGnrVGHK0qyI0kyas4GkFhG/jFKCsS\n"  # of PASSWORD, by bcrypt
_REALM = "test bed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """port: any free one. private: wants USER and PASSWORD. token_server: URL of who gives tokens for it."""

    registry: Registry
    port: int
    tls: bool = True
    private: bool = False
    token_server: str = ""

    @property
    def name(self) -> str:
        """As in image names; reached from this machine and from the cluster's hosts."""
        return f"{self.registry.address}:{self.port}"

    @property
    def daemon(self) -> Daemon:
        return Daemon(
            name=f"docker-registry at {self.port}",
            argv=("docker-registry", "serve", str(self._directory / "config.yml")),
            pid_file=self._directory / "docker-registry.pid",
            log=self._directory / "docker-registry.log",
        )

    @contextmanager
    def opened(self) -> Iterator["Door"]:
        self._prepare()
        self.daemon.start()
        try:
            self.daemon.wait_ready("listens", self._listens, timeout_s=60)
            yield self
        finally:
            self.daemon.stop()

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        htpasswd = self._directory / "htpasswd"
        htpasswd.write_text(_HTPASSWD)
        config = json.loads((self._directory.parent / "registry" / "config.yml").read_text())
        config["http"] |= {"addr": self.name, "secret": secrets.token_hex(16)}
        if not self.tls:
            del config["http"]["tls"]
        if self.token_server:
            certificate = str(self.registry.authority.certificate)
            config["auth"] = {
                "token": {
                    "realm": self.token_server,
                    "service": _REALM,
                    "issuer": _REALM,
                    "rootcertbundle": certificate,
                }
            }
        elif self.private:
            config["auth"] = {"htpasswd": {"realm": _REALM, "path": str(htpasswd)}}
        (self._directory / "config.yml").write_text(json.dumps(config))

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self.registry.address, self.port), timeout=2):
                return True
        except OSError:
            return False

    @property
    def _directory(self) -> Path:
        return self.registry.settings.run / f"registry-{self.port}"
