"""The image of an MPI program: busybox, the program, and the libraries that it opens, out of the cluster's root.

Apart from the other images because only a few tests need it: it is made and pushed when one asks for it.
"""

import hashlib
import shutil
from pathlib import Path

from testbed.images import Image, build_layout, fill_with_busybox
from testbed.programs import run
from testbed.root import MPI_PROGRAM

MPI_IMAGE = Image(
    name="test/mpi-ranks:1.0",
    config=("--config.env=PATH=/bin:/usr/bin:/usr/local/bin", f"--config.entrypoint=/{MPI_PROGRAM}"),
)
OPENED_WHEN_RUNNING = "usr/lib/*/pmix2/lib/pmix/*.so"
CONFIGURATION = ("etc/openmpi", "usr/share/openmpi")


def ensure_mpi_layout(cache: Path, root: Path) -> Path:
    """Return an OCI layout with the image, tagged with its tag; build it from this root unless the cache has it."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + root.name.encode()).hexdigest()[:12]
    layout = cache / f"mpi-image-{recipe}"

    def fill(rootfs: Path) -> None:
        fill_with_busybox(rootfs)
        _fill_with_mpi(rootfs, root)

    if not layout.exists():
        build_layout(layout, (MPI_IMAGE,), fill)
    return layout


def _fill_with_mpi(rootfs: Path, root: Path) -> None:
    objects = [f"/{path.relative_to(root)}" for path in (root / MPI_PROGRAM, *root.glob(OPENED_WHEN_RUNNING))]
    listed = run(["chroot", str(root), "ldd", *objects], timeout_s=60).stdout
    libraries = {word for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    for name in (*objects, *libraries):
        target = rootfs / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name.lstrip("/"), target)
    for directory in CONFIGURATION:
        shutil.copytree(root / directory, rootfs / directory)
    shutil.copytree(root / "etc/ld.so.conf.d", rootfs / "etc/ld.so.conf.d")
    shutil.copy(root / "etc/ld.so.conf", rootfs / "etc/ld.so.conf")
    run(["ldconfig", "-r", str(rootfs)], timeout_s=60)
