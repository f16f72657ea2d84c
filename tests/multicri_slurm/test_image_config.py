"""What an image says of itself, out of the file that Apptainer has built."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.image_config import Read, config_of, oci_config_of_sif
from multicri_slurm.runtimes import ImageConfig

from multicri_proxy.api.errors import FailedPrecondition

CONFIG = b'{"Entrypoint":["/e","-x"],"Cmd":["c"],"WorkingDir":"/w","User":"nobody"}'


def sif(objects: dict[str, bytes], used: bool = True) -> bytes:
    """A file of this form, with as little as it needs."""
    table_at, data_at = 128, 128 + 585 * len(objects)
    header = struct.pack("<32s10s3s3s16s8q", b"#!/x\n", b"SIF_MAGIC\0", b"01\0", b"02\0", b"", 0, 0, 0, 0,
                         table_at, 585 * len(objects), data_at, 0)  # fmt: skip
    table, data = b"", b""
    for name, content in objects.items():
        place = (data_at + len(data), len(content), len(content), 0, 0, 0, 0)
        table += struct.pack("<i?III7q128s384s", 0x4007, used, 1, 1, 0, *place, name.encode(), b"")
        data += content
    return header + table + data


def reading(content: bytes) -> Read:
    async def read(offset: int, size: int) -> bytes | None:
        return content[offset : offset + size]

    return read


async def test_the_configuration_is_found_by_its_name() -> None:
    file = sif({"inspect-metadata.json": b"{}", "oci-config.json": CONFIG})
    assert await oci_config_of_sif(reading(file)) == CONFIG
    assert config_of(CONFIG) == ImageConfig(entrypoint=("/e", "-x"), cmd=("c",), working_dir="/w")


async def test_a_file_without_one_says_nothing() -> None:
    for file in (b"", b"x" * 4096, sif({}), sif({"a": b"{}"}), sif({"oci-config.json": CONFIG}, used=False)):
        assert await oci_config_of_sif(reading(file)) is None


@given(st.binary(max_size=300), st.integers(0, 800))
async def test_a_file_that_is_cut_or_changed_breaks_nothing(noise: bytes, at: int) -> None:
    file = sif({"oci-config.json": CONFIG})
    await oci_config_of_sif(reading(file[:at]))
    await oci_config_of_sif(reading(file[:at] + noise + file[at + len(noise) :]))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b'{"Cmd":"x"}', b'{"Entrypoint":[1]}', b'{"WorkingDir":["/"]}', b"\xff", b"[" * 100_000],
    ids=lambda text: repr(text[:20]),
)
def test_a_configuration_that_is_none_is_told(text: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="configuration cannot be read"):
        config_of(text)


def test_a_whole_configuration_of_a_registry_is_understood_too() -> None:
    assert config_of(b'{"architecture":"amd64","config":' + CONFIG + b"}") == config_of(CONFIG)
    assert config_of(b'{"config":null}') == ImageConfig()


def test_a_relative_working_directory_is_below_the_root() -> None:
    assert config_of(b'{"WorkingDir":"app"}').working_dir == "/app"
