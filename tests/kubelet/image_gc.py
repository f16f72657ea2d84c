"""The kubelet's garbage collection of images.

Source: the kubelet's documentation, "Garbage collection of unused containers and images".
"""

import os

from kubelet.client import Kubelet
from multicri_proxy.cri.v1 import runtime_pb2 as cri


async def used_percent(kubelet: Kubelet) -> int:
    """How full the kernel says that the file system of images is, which the runtime names."""
    info = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    kernels = os.statvfs(info.image_filesystems[0].fs_id.mountpoint)
    return 100 - kernels.f_bavail * 100 // kernels.f_blocks


async def collect_garbage(kubelet: Kubelet, *, high_percent: int, low_percent: int) -> list[str]:
    """Once: if it is fuller than high_percent, remove images until it should be as full as low_percent.

    Those go that no container uses and that are not pinned, in the order of the runtime's list. Returns their ids.
    """
    info = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    kernels = os.statvfs(info.image_filesystems[0].fs_id.mountpoint)
    capacity, available = kernels.f_blocks * kernels.f_frsize, kernels.f_bavail * kernels.f_frsize
    if await used_percent(kubelet) < high_percent:
        return []
    to_free = capacity * (100 - low_percent) // 100 - available
    used = {container.image_ref for container in await kubelet.containers()}
    removed: list[str] = []
    for image in await kubelet.images():
        if to_free <= 0:
            break
        if image.id in used or image.pinned:
            continue
        spec = cri.ImageSpec(image=image.id)
        await kubelet.call(cri.RemoveImageRequest(image=spec), cri.RemoveImageResponse)
        to_free -= image.size
        removed.append(image.id)
    return removed
