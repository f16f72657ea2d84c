"""The image of a DNS server: busybox, and dnsmasq with its libraries, from this machine's Debian packages.

Apart from the other images because only a few tests need it: it is made and pushed when one asks for it.
"""

import hashlib
import shutil
from pathlib import Path

from testbed.images import Image, build_layout, fill_with_busybox
from testbed.programs import run

DNSMASQ = Path("/usr/sbin/dnsmasq")
DNS_IMAGE = Image(
    name="test/dns:1.0",
    config=("--config.env=PATH=/bin:/usr/bin", f"--config.entrypoint={DNSMASQ}", "--config.user=65532:65532"),
)


def ensure_dns_layout(cache: Path) -> Path:
    """Return an OCI layout with the image, tagged with its tag; build it unless the cache has it."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + DNSMASQ.read_bytes()).hexdigest()[:12]
    layout = cache / f"dns-image-{recipe}"

    def fill(rootfs: Path) -> None:
        fill_with_busybox(rootfs)
        listed = run(["ldd", str(DNSMASQ)], timeout_s=60).stdout
        for name in (str(DNSMASQ), *(word for word in listed.split() if word.startswith("/"))):
            target = rootfs / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)

    if not layout.exists():
        build_layout(layout, (DNS_IMAGE,), fill)
    return layout
