"""Image names as the kubelet gives them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_images.names import digest_name, reference_of, source_of

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
        ("Intern/tool", "intern/tool:latest"),
        ("[fd00::1]:5000/tool:1", "[fd00::1]:5000/tool:1"),
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
        ("multicri/singularity-repository.", "no image of a shub:// repository"),
        ("multicri/singularity-repository.a/../b", "no image of a shub:// repository"),
        ("multicri/local-image.", "no relative path"),
        ("multicri/local-image./etc/passwd", "no relative path"),
        ("multicri/local-image.../x", "no relative path"),
        ("multicri/local-def-file.a/.b", "no relative path"),
        ("multicri/docker." + "a" * 64, "an image's id"),
        ("multicri/docker.[::1]:x/a", "not a registry's host name"),
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


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("singularity-repository.acme/lab/tool:1", "shub://acme/lab/tool:1"),
        ("local-image.tool.sif", "local-image:tool.sif"),
        ("local-image.sub/tool.img:latest", "local-image:sub/tool.img"),
        ("local-def-file.tool.def:latest", "local-def-file:tool.def"),
    ],
)
def test_the_other_kinds_are_read_as_multi_cri_names_them(name: str, source: str) -> None:
    assert source_of(f"multicri/{name}") == source


def test_what_a_singularity_repository_is_says_the_admin() -> None:
    name = "multicri/singularity-repository.ghcr.io/acme/tool:1"
    assert source_of(name, singularity="oras") == "oras://ghcr.io/acme/tool:1"
    assert source_of(name, singularity="library") == "library://ghcr.io/acme/tool:1"


def test_a_mere_reference_is_ours_by_its_runtime_handler_alone() -> None:
    assert source_of("perl:5", plain=True) == "docker://docker.io/library/perl:5"
    with pytest.raises(InvalidArgument, match="does not begin with"):
        source_of("perl:5")
    with pytest.raises(InvalidArgument, match="not a kind of image"):
        source_of("multicri/perl", plain=True)


@given(st.from_regex(r"[a-z0-9.]{1,12}(:[0-9]{1,5})?(/[a-z0-9]{1,8}){1,3}(:[a-z0-9]{1,8})?", fullmatch=True))
def test_the_name_of_a_digest_means_what_the_digest_names(reference: str) -> None:
    try:
        source = source_of(reference, plain=True)
    except InvalidArgument:
        return
    named = reference_of(source_of(digest_name(source, DIGEST)))
    meant = reference_of(source)
    assert named is not None and meant is not None
    assert named == meant.at(DIGEST) or ".img" in reference
