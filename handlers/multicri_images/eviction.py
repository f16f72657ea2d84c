"""Which images go when there are too many. Pure."""

from collections.abc import Callable, Mapping, Sequence

from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Image


def surplus(
    images: Sequence[Image],
    sizes_bytes: Mapping[ImageId, int],
    stays: Callable[[Image], bool],
    *,
    limit_count: int,
    limit_bytes: int,
) -> list[Image]:
    """What is to be removed to be within both limits, as far as that can be had; 0 is no limit.

    images: all, least recently used first. sizes_bytes: of those that take room; the others make none.
    """
    count, total = len(images), sum(sizes_bytes.get(image.id, 0) for image in images)
    going = []
    for image in images:
        too_many = 0 < limit_count < count
        size = sizes_bytes.get(image.id, 0)
        if stays(image) or not (too_many or (size and 0 < limit_bytes < total)):
            continue
        going.append(image)
        count, total = count - 1, total - size
    return going
