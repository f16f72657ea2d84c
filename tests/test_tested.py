"""Which runtimes are let pass without a word."""

import pytest

from multicri_proxy.tested import why_untested


@pytest.mark.parametrize(
    ("name", "version"), [("containerd", "1.6.20~ds1"), ("containerd", "v2.1.9"), ("cri-o", "1.32.0")]
)
def test_the_usual_runtimes_pass(name: str, version: str) -> None:
    assert why_untested(name, version) is None


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("docker", "24.0.7", "its name 'docker' is none of containerd, cri-o"),
        ("containerd", "3.0.0", "its version '3.0.0' is not one of 1.x, 2.x"),
        ("containerd", "", "its version '' is not one of"),
    ],
)
def test_another_one_is_named_with_what_is_unusual(name: str, version: str, why: str) -> None:
    assert why in (why_untested(name, version) or "")
