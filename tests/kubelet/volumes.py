"""A pod's directory on the node, as the kubelet fills it: what is mounted into containers comes from there."""

import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from multicri_proxy.cri.v1 import runtime_pb2 as cri


@dataclass
class PodVolumes:
    """directory: ``<kubelet's directory>/pods/<uid>``."""

    directory: Path
    mounted: list[Path] = field(default_factory=list)

    def publish(self, plugin: str, name: str, files: Mapping[str, str | bytes], mode: int = 0o644) -> Path:
        """A new version of a ConfigMap, Secret or the like, the way that the kubelet writes one."""
        volume = self.directory / "volumes" / f"kubernetes.io~{plugin}" / name
        version = volume / f"..2026_11_22_03_00_00.{secrets.randbelow(10**9)}"
        before = (volume / "..data").resolve() if (volume / "..data").is_symlink() else None
        for path, content in files.items():
            file = version / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            file.chmod(mode)
        version.mkdir(parents=True, exist_ok=True)
        (volume / "..data_tmp").symlink_to(version.name)
        (volume / "..data_tmp").rename(volume / "..data")
        names = {path.split("/")[0] for path in files}
        for name_now in names:
            if not (volume / name_now).is_symlink():
                (volume / name_now).symlink_to(f"..data/{name_now}")
        for entry in volume.iterdir():
            if not entry.name.startswith("..") and entry.name not in names:
                entry.unlink()
        if before:
            shutil.rmtree(before)
        return volume

    def directory_of(self, plugin: str, name: str) -> Path:
        """A volume of any other kind."""
        path = self.directory / "volumes" / f"kubernetes.io~{plugin}" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def subpath(self, volume: str, inner: Path, container: str = "main", index: int = 0) -> Path:
        """A subPath: what is inside of a volume, mounted once more."""
        path = self.directory / "volume-subpaths" / volume / container / str(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        if inner.is_dir():
            path.mkdir()
        else:
            path.touch()
        subprocess.run(["mount", "--bind", str(inner.resolve()), str(path)], check=True)
        self.mounted.append(path)
        return path

    def message(self, container: str = "main") -> Path:
        """A new, empty file for a termination message: another one for each call of CreateContainer."""
        path = self.directory / "containers" / container / secrets.token_hex(4)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o666)
        return path

    def hosts(self, text: str) -> Path:
        path = self.directory / "etc-hosts"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def unmount(self) -> None:
        for path in self.mounted:
            subprocess.run(["umount", str(path)], check=True)


def mount(host_path: Path, container_path: str, *, readonly: bool = False) -> cri.Mount:
    return cri.Mount(host_path=str(host_path), container_path=container_path, readonly=readonly)
