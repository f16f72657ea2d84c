"""The registry: Debian's docker-registry over TLS on the cluster's gateway address, port 443.

Port 443 because image names must not have a port: the kubelet refuses one inside
`multicri/docker-repository.registry.test/test/busybox:1.0`.
"""

import json
import secrets
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from testbed.authority import Authority
from testbed.images import BUSYBOX_IMAGE, IMAGES, PAUSE_IMAGE, TOOL_IMAGE, Image, ensure_layout
from testbed.programs import Daemon, run
from testbed.settings import Settings

PORT = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    settings: Settings
    authority: Authority

    @property
    def name(self) -> str:
        """Its name in image names; the cluster's hosts resolve it, containerd maps it, this machine does neither."""
        return self.settings.registry_name

    @property
    def address(self) -> str:
        return str(self.settings.gateway)

    @property
    def busybox(self) -> str:
        """`registry.test/test/busybox:1.0`: static busybox, ENV FOO=fromimage, no entrypoint, cmd prints a line."""
        return self.image_name(BUSYBOX_IMAGE)

    @property
    def tool(self) -> str:
        """`registry.test/test/tool:1.0`: has ENTRYPOINT, CMD, ENV, WORKDIR and USER; tells what it was given."""
        return self.image_name(TOOL_IMAGE)

    @property
    def pause(self) -> str:
        return self.image_name(PAUSE_IMAGE)

    @property
    def daemon(self) -> Daemon:
        return Daemon(
            name="docker-registry",
            argv=("docker-registry", "serve", str(self._directory / "config.yml")),
            pid_file=self._directory / "docker-registry.pid",
            log=self._directory / "docker-registry.log",
        )

    def image_name(self, image: Image) -> str:
        return f"{self.name}/{image.name}"

    def prepare(self) -> None:
        """Write its configuration and a certificate for its name and address."""
        self._directory.mkdir(parents=True, exist_ok=True)
        certificate, key = self._directory / "tls.crt", self._directory / "tls.key"
        self.authority.issue(name=self.name, address=self.settings.gateway, certificate=certificate, key=key)
        config = {  # YAML takes JSON
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._directory / "storage")},
                "delete": {"enabled": True},
            },
            "http": {
                "addr": f"{self.address}:{PORT}",
                "secret": secrets.token_hex(16),
                "tls": {"certificate": str(certificate), "key": str(key)},
            },
        }
        (self._directory / "config.yml").write_text(json.dumps(config, indent=2))

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_ready("answers over TLS", self.answers, timeout_s=60)

    def stop(self) -> None:
        self.daemon.stop()

    def push_images(self) -> None:
        """Push every image of images.py."""
        layout = ensure_layout(self.settings.cache)
        for image in IMAGES:
            self.push(layout, image)

    def push(self, layout: Path, image: Image, *, name: str = "") -> None:
        """name: in the registry; the image's own if there is none."""
        source, destination = f"oci:{layout}:{image.tag}", f"docker://{self.address}/{name or image.name}"
        certificates = ["--dest-cert-dir", str(self.authority.directory)]
        run(["skopeo", "copy", "--quiet", "--insecure-policy", *certificates, source, destination], timeout_s=60)

    def answers(self) -> bool:
        """Whether GET /v2/ is answered over TLS, under its name, with a certificate that the bed's CA vouches for."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        try:
            with (
                socket.create_connection((self.address, PORT), timeout=2) as plain,
                context.wrap_socket(plain, server_hostname=self.name) as connection,
            ):
                connection.sendall(f"GET /v2/ HTTP/1.0\r\nHost: {self.name}\r\n\r\n".encode())
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    @property
    def _directory(self) -> Path:
        return self.settings.run / "registry"
