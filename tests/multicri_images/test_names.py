"""Image names as the kubelet gives them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_images.names import source_of

from multicri_proxy.api.errors import InvalidArgument

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ("perl", "docker.io/library/perl:latest"),
        ("perl:5", "docker.io/library/perl:5"),
        ("perl.img:latest", "docker.io/library/perl:latest"),
        ("perl.img", "docker.io/library/perl:latest"),
        ("acme/tool:1.2", "docker.io/acme/tool:1.2"),
        ("acme/tool.img:1.2", "docker.io/acme/tool:1.2"),
        ("docker.io/perl", "docker.io/library/perl:latest"),
        ("index.docker.io/library/perl", "docker.io/library/perl:latest"),
        ("GHCR.io/acme/tool", "ghcr.io/acme/tool:latest"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
        ("10.0.0.1:5000/tool", "10.0.0.1:5000/tool:latest"),
        (f"perl@{DIGEST}", f"docker.io/library/perl@{DIGEST}"),
        (f"perl:5@{DIGEST}", f"docker.io/library/perl:5@{DIGEST}"),
        ("a/b-c__d.e:T_1.-x", "docker.io/a/b-c__d.e:T_1.-x"),
    ],
)
@pytest.mark.parametrize("form", ["docker-repository", "docker"])
def test_a_reference_is_read_as_docker_reads_it(form: str, reference: str, source: str) -> None:
    if form == "docker" and reference.startswith("io/"):
        return
    assert source_of(f"multicri/{form}.{reference}") == f"docker://{source}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("perl", "does not begin with"),
        ("multicri/", "not a kind of image"),
        ("multicri/perl", "not a kind of image"),
        ("multicri/docker.io/library/perl", "multicri/docker-repository.docker.io/library/perl"),
        ("multicri/singularity-repository.shub/x", "not supported yet"),
        ("multicri/local-image.x", "not supported yet"),
        ("multicri/local-def-file.x", "not supported yet"),
        ("multicri/docker.", "empty"),
        ("multicri/docker.Perl", "not a part of a repository's name"),
        ("multicri/docker.a//b", "not a part of a repository's name"),
        ("multicri/docker.../etc/passwd", "not a registry's host name"),
        ("multicri/docker.a/../b", "not a part of a repository's name"),
        ("multicri/docker.perl:", "is not a tag"),
        ("multicri/docker.perl:.x", "is not a tag"),
        ("multicri/docker.perl:" + "x" * 129, "is not a tag"),
        ("multicri/docker.perl@sha256:12", "digest"),
        ("multicri/docker.perl@" + DIGEST.upper(), "digest"),
        ("multicri/docker.perl;id", "other characters"),
        ("multicri/docker.perl\n", "other characters"),
        ("multicri/docker.-perl", "not a part of a repository's name"),
        ("multicri/docker." + "a" * 256, "longer than 255"),
        ("multicri/docker." + "a" * 2000, "longer than 1024"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(reason)):
        source_of(name)


@given(st.text(max_size=60))
def test_nothing_but_harmless_characters_survives(text: str) -> None:
    for form in ("docker-repository.", "docker."):
        try:
            source = source_of(f"multicri/{form}{text}")
        except InvalidArgument:
            continue
        assert re.fullmatch(r"docker://[A-Za-z0-9][A-Za-z0-9._:/@-]*", source, re.ASCII)
        assert ".." not in source


_WORD = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", fullmatch=True).filter(lambda word: len(word) < 40)


@given(
    registry=st.sampled_from(["", "ghcr.io/", "localhost:5000/"]),
    path=st.lists(_WORD, min_size=1, max_size=3),
    tag=st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", fullmatch=True),
)
def test_a_canonical_source_means_itself(registry: str, path: list[str], tag: str) -> None:
    try:
        source = source_of(f"multicri/docker-repository.{registry}{'/'.join(path)}{tag}")
    except InvalidArgument:
        assert path[0].count(".")
        return
    again = source_of(f"multicri/docker-repository.{source.removeprefix('docker://')}")
    assert again == source or ".img" in source
