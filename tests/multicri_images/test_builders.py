"""The commands that build images."""

import pytest
from multicri_images.builders import APPTAINER, CHARLIECLOUD, SINGULARITY

from multicri_proxy.api.errors import InvalidArgument

SOURCE = "docker://docker.io/library/perl:5"


def test_apptainer_and_singularity_build_one_file() -> None:
    assert APPTAINER.build(SOURCE, "/i/x") == (("apptainer", "build", "/i/x", SOURCE),)
    assert SINGULARITY.build(SOURCE, "/i/x") == (("singularity", "build", "/i/x", SOURCE),)
    assert (APPTAINER.suffix, SINGULARITY.suffix) == (".sif", ".sif")


def test_charliecloud_builds_a_directory_with_a_storage_of_its_own() -> None:
    commands = CHARLIECLOUD.build(SOURCE, "/i/x")
    assert commands[0][-2:] == ("pull", "docker.io/library/perl:5")
    assert commands[1][-2:] == ("docker.io/library/perl:5", "/i/x")
    assert all("CH_IMAGE_STORAGE=/i/x.storage" in command for command in commands[:2])
    assert commands[-1] == ("rm", "-rf", "/i/x.storage")
    assert CHARLIECLOUD.suffix == ""


def test_the_first_program_also_runs_containers() -> None:
    assert [b.programs[0] for b in (APPTAINER, SINGULARITY, CHARLIECLOUD)] == ["apptainer", "singularity", "ch-run"]


def test_another_kind_of_source_is_refused() -> None:
    for builder in (APPTAINER, SINGULARITY, CHARLIECLOUD):
        with pytest.raises(InvalidArgument):
            builder.build("shub://x", "/i/x")
