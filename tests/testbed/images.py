"""The container images that the bed's registry offers, built from this machine's static busybox."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import run

BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/tool")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "",
    "etc/resolv.conf": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: its name in the registry, without the registry, and umoci's config flags."""

    name: str
    config: tuple[str, ...]

    @property
    def tag(self) -> str:
        """Its tag in the OCI layout."""
        return self.name.replace("/", "-").replace(":", "-")


BUSYBOX_IMAGE = Image(
    name="test/busybox:1.0",
    config=(
        "--config.env=PATH=/bin:/usr/bin",
        "--config.env=FOO=fromimage",
        "--config.cmd=/bin/echo",
        "--config.cmd=hello from the image",
        "--config.label=org.test=1",
    ),
)
PAUSE_IMAGE = Image(
    name="pause:3.9",
    config=(
        "--config.env=PATH=/bin",
        # Reaps orphans, as pods that share their PID namespace need, and ends on SIGTERM.
        "--config.entrypoint=/bin/sh",
        "--config.entrypoint=-c",
        "--config.entrypoint=trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait $!; done",
    ),
)
TOOL_IMAGE = Image(
    name="test/tool:1.0",
    config=(
        "--config.env=PATH=/bin:/usr/bin",
        "--config.env=TOOL=of the image",
        "--config.entrypoint=/bin/sh",
        "--config.entrypoint=-c",
        '--config.entrypoint=echo "in $PWD, TOOL=$TOOL"; for word; do echo "<$word>"; done',
        "--config.entrypoint=tool",
        "--config.cmd=a b",
        "--config.cmd=$HOME",
        "--config.workingdir=/var/tool",
        "--config.user=nobody",
    ),
)
IMAGES = (BUSYBOX_IMAGE, PAUSE_IMAGE, TOOL_IMAGE)


def ensure_layout(cache: Path) -> Path:
    """Return an OCI layout with every image, tagged with Image.tag; build it unless the cache has it."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + BUSYBOX.read_bytes()).hexdigest()[:12]
    layout = cache / f"images-{recipe}"
    if not layout.exists():
        build_layout(layout, IMAGES, fill_with_busybox)
    return layout


def build_layout(layout: Path, images: Sequence[Image], fill: Callable[[Path], None]) -> None:
    """Make an OCI layout with images of one root file system. fill: given an empty directory, puts all into it."""
    work = layout.with_name(f"{layout.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    new, bundle, base = work / "layout", work / "bundle", work / "layout:base"
    _umoci("init", "--layout", str(new))
    _umoci("new", "--image", str(base))
    _umoci("unpack", "--image", str(base), str(bundle))
    fill(bundle / "rootfs")
    _umoci("repack", "--image", str(base), str(bundle))
    for image in images:
        _umoci("config", "--image", str(base), "--tag", image.tag, *image.config)
    new.rename(layout)
    shutil.rmtree(work)


def fill_with_busybox(rootfs: Path) -> None:
    for directory in DIRECTORIES:
        (rootfs / directory).mkdir(parents=True, exist_ok=True)
    (rootfs / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    for applet in run([str(BUSYBOX), "--list"], timeout_s=10).stdout.split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    for path, text in FILES.items():
        (rootfs / path).write_text(text)


def _umoci(*arguments: str) -> None:
    run(["umoci", *arguments], timeout_s=60)
