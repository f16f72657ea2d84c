"""Signatures of images of registries: what is asked of cosign, and what becomes of its answer."""

from pathlib import Path

import pytest
from multicri_images.settings import read_settings
from pool_bench import OpenPool
from testbed import Testbed
from testbed.door import PASSWORD, USER, Door

from multicri_proxy.api.errors import InvalidArgument, PermissionDenied
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import RegistryAuth

COSIGN = """\
#!/bin/sh
# Stands in PATH where cosign would be, which Debian does not have: takes one image for signed.
printf '%s\\n' "$*" > {directory}/words
cat "$DOCKER_CONFIG/config.json" > {directory}/credentials 2>/dev/null
[ -s {directory}/digest ] && grep -q "$(cat {directory}/digest)" {directory}/words && exit
echo 'Error: no signatures found' >&2
exit 10
"""


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory: the file ``digest`` names the image that is signed; what was asked is there, too."""
    program = tmp_path / "bin/cosign"
    program.parent.mkdir()
    program.write_text(COSIGN.format(directory=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.testbed
async def test_cosign_is_asked_for_the_digest_with_the_pulls_credentials_and_its_word_counts(
    private: Door, open_pool: OpenPool, cosign: Path
) -> None:
    name = ImageRef(f"multicri/docker.{private.name}/test/tool:1.0")
    auth = RegistryAuth(username=USER, password=PASSWORD)
    settings = {"cosign_key": "/etc/cosign.pub", "cosign_arguments": ["--insecure-ignore-tlog=true"]}
    async with open_pool(signatures="warn", **settings) as images:
        image = await images.pull(name, auth=auth)
        assert image.signature == "not verified: Error: no signatures found"
        assert await images.signature_rule(image) is None
    reference = image.source.removeprefix("docker://")
    words = (cosign / "words").read_text().strip()
    assert words == f"verify --key /etc/cosign.pub --insecure-ignore-tlog=true {reference}"
    assert private.name in (cosign / "credentials").read_text()
    async with open_pool(signatures="enforce", **settings) as images:
        with pytest.raises(PermissionDenied, match="when it was pulled nobody looked"):
            await images.signature_rule(image)
        with pytest.raises(PermissionDenied, match="enforce, and it is not verified: Error: no signatures found"):
            await images.pull(name, auth=auth)
        (cosign / "digest").write_text(reference.partition("@")[2])
        image = await images.pull(name, auth=auth)
        assert image.signature == "verified by cosign with /etc/cosign.pub"
        assert await images.signature_rule(image) is None


@pytest.mark.testbed
async def test_without_cosign_an_image_is_refused_or_that_is_said(
    bed: Testbed, open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    name = ImageRef(f"multicri/docker.{bed.registry.address}/test/tool:1.0")
    async with open_pool(signatures="enforce", cosign_key="/etc/cosign.pub") as images:
        with pytest.raises(PermissionDenied, match="cosign is not on this node: install it, or set"):
            await images.pull(name)
    async with open_pool(signatures="warn", cosign_key="/etc/cosign.pub") as images:
        assert "cosign is not on this node" in (await images.pull(name)).signature


def test_a_policy_needs_keys() -> None:
    with pytest.raises(InvalidArgument, match=r"signatures: needs keys .* set signature_keys, or cosign_key"):
        read_settings({"signatures": "enforce"})
    with pytest.raises(InvalidArgument, match=r"images\.cosign_arguments\.0"):
        read_settings({"signatures": "warn", "cosign_key": "/k", "cosign_arguments": ["key"]})
