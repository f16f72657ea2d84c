"""Which images go when there are too many."""

from hypothesis import given
from hypothesis import strategies as st
from multicri_images.eviction import surplus

from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Image


def image(number: int) -> Image:
    return Image(id=ImageId(f"sha256:{number}"), source=f"docker://x/y:{number}", names=())


IMAGES = [image(number) for number in range(4)]
SIZES = {one.id: 100 for one in IMAGES[1:]}


def gone(*, stays: set[int] = frozenset(), count: int = 0, size: int = 0) -> list[int]:  # type: ignore[assignment]
    spared = {image(number).id for number in stays}
    found = surplus(IMAGES, SIZES, lambda one: one.id in spared, limit_count=count, limit_bytes=size)
    return [IMAGES.index(one) for one in found]


def test_without_limits_nothing_goes() -> None:
    assert gone() == []


def test_beyond_a_number_those_go_that_were_not_used_for_longest() -> None:
    assert gone(count=4) == []
    assert gone(count=2) == [0, 1]


def test_beyond_a_size_only_those_go_that_make_room() -> None:
    assert gone(size=300) == []
    assert gone(size=250) == [1]
    assert gone(size=1) == [1, 2, 3]


def test_what_is_used_or_pinned_stays_and_others_go_in_its_stead() -> None:
    assert gone(stays={0, 1}, count=2) == [2, 3]
    assert gone(stays={1, 2, 3}, size=1) == []


@given(
    sizes=st.lists(st.one_of(st.none(), st.integers(1, 50)), max_size=12),
    stays=st.sets(st.integers(0, 11)),
    count=st.integers(0, 12),
    limit=st.integers(0, 200),
)
def test_no_more_goes_than_must_and_no_less_than_can(
    sizes: list[int | None], stays: set[int], count: int, limit: int
) -> None:
    images = [image(number) for number in range(len(sizes))]
    known = {one.id: size for one, size in zip(images, sizes, strict=True) if size}
    spared = {image(number).id for number in stays}
    going = surplus(images, known, lambda one: one.id in spared, limit_count=count, limit_bytes=limit)

    def too_much(left: list[Image]) -> bool:
        too_many = 0 < count < len(left)
        return too_many or 0 < limit < sum(known.get(one.id, 0) for one in left)

    assert [one for one in images if one in going] == going
    assert not any(one.id in spared for one in going)
    left = [one for one in images if one not in going]
    if going:
        assert too_much([*left, going[-1]]), "the last one had to go"
    if too_much(left):
        can_go = [one for one in left if one.id not in spared]
        assert not can_go or (not 0 < count < len(left) and not any(one.id in known for one in can_go))
