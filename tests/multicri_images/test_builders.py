"""What makes images."""

import json

import pytest
from multicri_images.builders import APPTAINER, CHARLIECLOUD, CHARLIECLOUD_SQUASHFS, SINGULARITY

from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.image import BuildSource, ImageBuilder, RegistryAuth

URI = "docker://docker.io/library/perl:5"
DIGEST = f"sha256:{'0' * 64}"
ROBOT = RegistryAuth(username="robot", password="s3cret")


def test_apptainer_and_singularity_build_one_file() -> None:
    source = BuildSource(uri=URI)
    assert APPTAINER.recipe(source, "/i/x").commands == (("apptainer", "build", "--disable-cache", "/i/x", URI),)
    assert SINGULARITY.recipe(source, "/i/x").commands == (("singularity", "build", "--disable-cache", "/i/x", URI),)
    assert (APPTAINER.suffix, SINGULARITY.suffix) == (".sif", ".sif")


def test_charliecloud_builds_a_directory_with_a_storage_of_its_own() -> None:
    recipe = CHARLIECLOUD.recipe(BuildSource(uri=URI), "/i/x")
    assert recipe.commands[0] == ("ch-image", "pull", "docker.io/library/perl:5")
    assert recipe.commands[1][-2:] == ("docker.io/library/perl:5", "/i/x")
    assert recipe.environment["CH_IMAGE_STORAGE"] == "/i/x.storage"
    assert recipe.commands[-1] == ("rm", "-rf", "/i/x.storage")
    assert CHARLIECLOUD.suffix == ""


def test_charliecloud_packs_a_file_and_keeps_what_the_image_says_of_itself() -> None:
    recipe = CHARLIECLOUD_SQUASHFS.recipe(BuildSource(uri=URI), "/i/x.squashfs")
    assert recipe.commands[1][-2:] == ("/i/x.squashfs.storage", "/i/x.squashfs.config")
    assert " ".join(recipe.commands[2]) == ("ch-convert -i ch-image -o squash docker.io/library/perl:5 /i/x.squashfs")
    assert "mksquashfs" in CHARLIECLOUD_SQUASHFS.programs


def test_a_digest_is_heard_and_the_tag_beside_it_is_not() -> None:
    source = BuildSource(uri=f"docker://h:5000/a/b:1@{DIGEST}")
    assert APPTAINER.recipe(source, "/i/x").commands[0][-1] == f"docker://h:5000/a/b@{DIGEST}"
    assert CHARLIECLOUD.recipe(source, "/i/x").commands[0][-1] == f"h:5000/a/b@{DIGEST}"


@pytest.mark.parametrize("builder", [APPTAINER, SINGULARITY, CHARLIECLOUD])
def test_a_password_is_on_no_command_line_and_in_no_repr(builder: ImageBuilder) -> None:
    recipe = builder.recipe(BuildSource(uri=URI, registry="docker.io", auth=ROBOT), "/i/x")
    assert "s3cret" in recipe.environment.values()
    assert "s3cret" not in repr(recipe)
    assert not any("s3cret" in word for command in recipe.commands for word in command)


def test_a_token_is_given_to_apptainer_in_a_file() -> None:
    source = BuildSource(uri=URI, registry="r.test", auth=RegistryAuth(identity_token="t0ken"))
    recipe = APPTAINER.recipe(source, "/i/x")
    assert "--authfile /i/x.auth" in " ".join(recipe.commands[0])
    assert json.loads(recipe.files["/i/x.auth"])["auths"]["r.test"] == {"identitytoken": "t0ken"}


def test_what_charliecloud_cannot_do_is_said() -> None:
    with pytest.raises(FailedPrecondition, match="no tokens"):
        CHARLIECLOUD.recipe(BuildSource(uri=URI, auth=RegistryAuth(registry_token="t")), "/i/x")
    with pytest.raises(FailedPrecondition, match=r"r\.test: Charliecloud pulls over HTTPS alone"):
        CHARLIECLOUD.recipe(BuildSource(uri=URI, registry="r.test", plain_http=True), "/i/x")


def test_a_registry_without_tls_and_one_with_its_own_authority_are_told_to_apptainer() -> None:
    recipe = APPTAINER.recipe(BuildSource(uri=URI, plain_http=True, ca_certificates=b"PEM"), "/i/x")
    assert "--no-https" in recipe.commands[0]
    assert recipe.files[recipe.environment["SSL_CERT_FILE"]] == b"PEM"


def test_the_first_program_also_runs_containers() -> None:
    assert [b.programs[0] for b in (APPTAINER, SINGULARITY, CHARLIECLOUD)] == ["apptainer", "singularity", "ch-run"]


def test_another_kind_of_source_is_refused() -> None:
    for builder in (APPTAINER, SINGULARITY, CHARLIECLOUD):
        with pytest.raises(FailedPrecondition, match="builds from"):
            builder.recipe(BuildSource(uri="local-image:x"), "/i/x")


def test_only_apptainer_and_singularity_know_what_holds_their_own_images() -> None:
    for uri in ("oras://r.test/a/b:1", "library://a/b/c:1", "shub://a/b"):
        assert APPTAINER.recipe(BuildSource(uri=uri), "/i/x").commands[0][-1] == uri
        with pytest.raises(FailedPrecondition, match="charliecloud builds from docker only"):
            CHARLIECLOUD.recipe(BuildSource(uri=uri), "/i/x")
