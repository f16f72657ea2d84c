"""The whole test bed: a node, a cluster and a registry, brought up and taken down together."""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from testbed.authority import Authority
from testbed.cluster import Cluster
from testbed.dns_image import DNS_IMAGE, ensure_dns_layout
from testbed.images import ensure_layout
from testbed.machine import MachineState, add_bridge, remove_bridge, unmount_below
from testbed.mpi_image import MPI_IMAGE, ensure_mpi_layout
from testbed.node import Node
from testbed.packages import install_packages, missing_packages
from testbed.programs import TestbedError
from testbed.registry import Registry
from testbed.settings import ReleaseName, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Testbed:
    """One bed per machine: names and addresses are fixed by its settings.

    `up` and `down` may be called at any time, in any order, by any process; a lock lets one in at a time.
    """

    __test__ = False  # pytest: not a test class

    settings: Settings = field(default_factory=Settings)

    @property
    def authority(self) -> Authority:
        return Authority(directory=self.settings.cache / "ca")

    @property
    def registry(self) -> Registry:
        return Registry(settings=self.settings, authority=self.authority)

    @property
    def node(self) -> Node:
        return Node(settings=self.settings, registry=self.registry)

    @property
    def cluster(self) -> Cluster:
        return Cluster(settings=self.settings, authority=self.authority)

    @classmethod
    def found(cls, base: Path) -> "Testbed | None":
        """The bed that is up below a base directory, wholly or partly, with the settings that it was given."""
        try:
            return cls(settings=Settings.from_json(Settings(base=base).run.joinpath("settings.json").read_text()))
        except FileNotFoundError:
            return None

    def install(self) -> None:
        """Install the Debian packages that the bed needs on this machine. Starts no daemon."""
        with self._locked(), _step("packages"):
            install_packages()

    def fill_cache(self) -> None:
        """Build what any bed can need, so that bringing one up takes neither the network nor minutes."""
        with self._locked():
            self.authority.ensure()
            for release, accounting in (*((name, False) for name in get_args(ReleaseName)), ("trixie", True)):
                with _step(f"cluster root of {release}{' with accounting' * accounting}"):
                    settings = replace(self.settings, release=release, accounting=accounting)
                    Testbed(settings=settings).cluster.root.ensure()
            with _step("images"):
                ensure_layout(self.settings.cache)
                ensure_mpi_layout(self.settings.cache, self.cluster.root.path)

    def up(self) -> None:
        """Bring it up. No-op if it is up with these settings; anything else that is left of it goes down first.

        Raises TestbedError naming what failed, with the tail of its log; what had come up stays, to look inside.
        """
        with self._locked():
            found = self.found(self.settings.base)
            if found is not None and found.settings == self.settings and found._serves():
                _say("is up already")
                return
            if missing := missing_packages():
                raise TestbedError(f"not installed: {' '.join(missing)}; run python3 -m testbed install")
            if found is not None:
                found._down()
            self._up()

    def down(self) -> None:
        """Take it down and remove all of it but the cache. No-op if it is down."""
        with self._locked():
            if (found := self.found(self.settings.base)) is not None:
                found._down()

    def push_mpi_image(self) -> str:
        """Push the image of an MPI program, and return its name. No-op if it is there."""
        layout = ensure_mpi_layout(self.settings.cache, self.cluster.root.path)
        self.registry.push(layout, MPI_IMAGE)
        return self.registry.image_name(MPI_IMAGE)

    def push_dns_image(self) -> str:
        """Push the image of a DNS server, and return its name. No-op if it is there."""
        self.registry.push(ensure_dns_layout(self.settings.cache), DNS_IMAGE)
        return self.registry.image_name(DNS_IMAGE)

    def alive(self) -> dict[str, bool]:
        """Whether each part runs, by name."""
        parts = {"registry": self.registry.daemon.pid is not None, "containerd": self.node.daemon.pid is not None}
        return parts | self.cluster.alive()

    def _serves(self) -> bool:
        return (
            self._ready_file.exists() and all(self.alive().values()) and self.registry.answers() and self.node.answers()
        )

    def _up(self) -> None:
        settings = self.settings
        self.authority.ensure()
        with _step("cluster root"):
            self.cluster.root.ensure()
        with _step("images"):
            ensure_layout(settings.cache)
        settings.run.mkdir(parents=True, exist_ok=True)
        self._machine_file.write_text(MachineState.read().to_json())
        self._settings_file.write_text(settings.to_json())
        with _step("registry"):
            add_bridge(settings.cluster_bridge, f"{settings.gateway}/{settings.cluster_network.prefixlen}")
            self.registry.prepare()
            self.registry.start()
            self.registry.push_images()
        with _step("node"):
            self.node.prepare()
            self.node.start()
        with _step("cluster"):
            self.cluster.prepare()
            self.cluster.boot()
        self._ready_file.touch()

    def _down(self) -> None:
        settings = self.settings
        self._ready_file.unlink(missing_ok=True)
        before = MachineState.from_json(self._machine_file.read_text())
        with _step("cluster down"):
            self.cluster.power_off()
        with _step("node down"):
            self.node.remove(had=frozenset(map(Path, before.directories)))
        with _step("registry down"):
            self.registry.stop()
        with _step("machine as before"):
            unmount_below(settings.run)
            remove_bridge(settings.pod_bridge)
            remove_bridge(settings.cluster_bridge)
            before.restore()
            shutil.rmtree(settings.run)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if os.geteuid() != 0:
            raise TestbedError("only root can bring up a test bed")
        self.settings.base.mkdir(parents=True, exist_ok=True)
        with (self.settings.base / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _machine_file(self) -> Path:
        """Written before the first change to the machine."""
        return self.settings.run / "machine.json"

    @property
    def _settings_file(self) -> Path:
        """Written right after it: what is, wholly or partly, up."""
        return self.settings.run / "settings.json"

    @property
    def _ready_file(self) -> Path:
        """There while all of it is up."""
        return self.settings.run / "ready"


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    started = time.monotonic()
    _say(f"{name} …")
    yield
    _say(f"{name}: {time.monotonic() - started:.1f} s")


def _say(line: str) -> None:
    print(f"testbed: {line}", file=sys.stderr, flush=True)
