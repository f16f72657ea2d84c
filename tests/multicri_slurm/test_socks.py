"""What a SOCKS client says, and where it may be connected: without a cluster."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.destinations import Destination, allowed_address
from multicri_slurm.socks import Target, asked

from multicri_proxy.api.errors import NotFound, PermissionDenied

HELLO = b"\x05\x01\x02"
PROOF = b"\x01\x04user\x06secret"


class Client:
    """One that has said all that it will say."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.heard = b""

    async def exactly(self, size: int) -> bytes:
        if len(self.said) < size:
            raise EOFError
        piece, self.said = self.said[:size], self.said[size:]
        return piece

    async def write(self, data: bytes) -> None:
        self.heard += data


def test_a_client_is_asked_for_its_password_and_then_where_to() -> None:
    client = Client(HELLO + PROOF + b"\x05\x01\x00\x03\x0bexample.org\x00\x50GET")
    assert asyncio.run(asked(client, "user", "secret")) == Target("example.org", 80)
    assert (client.heard, client.said) == (b"\x05\x02\x01\x00", b"GET")


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        (b"\x05\x01\x00\x01\x0a\x60\x00\x01\x01\xbb", Target("10.96.0.1", 443)),
        (b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50", Target("::1", 80)),
    ],
)
def test_addresses_are_read(request_: bytes, target: Target) -> None:
    assert asyncio.run(asked(Client(HELLO + PROOF + request_), "user", "secret")) == target


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01\x00", b"\x05\xff"),
        (b"\x05\x01\x00", b"\x05\xff"),
        (HELLO + b"\x01\x04user\x05wrong", b"\x05\x02\x01\x01"),
        (HELLO + b"\x01\x05other\x06secret", b"\x05\x02\x01\x01"),
        (HELLO + b"\x01\x00\x0buser:secret", b"\x05\x02\x01\x01"),
        (HELLO + PROOF + b"\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", b"\x05\x02\x01\x00\x05\x07\x00\x01" + bytes(6)),
        (HELLO + PROOF + b"\x05\x01\x00\x07", b"\x05\x02\x01\x00\x05\x08\x00\x01" + bytes(6)),
    ],
    ids=["SOCKS 4", "no password", "wrong password", "wrong user", "one in the other", "BIND", "unknown address"],
)
def test_who_is_refused_is_told_so(said: bytes, heard: bytes) -> None:
    client = Client(said)
    assert asyncio.run(asked(client, "user", "secret")) is None
    assert client.heard == heard


@given(st.binary(max_size=40))
def test_whatever_is_said_is_a_target_a_refusal_or_an_end(data: bytes) -> None:
    try:
        found = asyncio.run(asked(Client(HELLO + PROOF + data), "user", "secret"))
    except EOFError:
        return
    assert found is None or isinstance(found, Target)


SERVICES = Destination.model_validate({"to": "10.96.0.0/12", "ports": [443]})
LOOPBACK = Destination.model_validate({"to": "127.0.0.0/8"})
V6 = Destination.model_validate({"to": "fd00::/64"})


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("10.96.0.1", 443, "10.96.0.1"),
        ("::ffff:10.96.0.1", 443, "10.96.0.1"),
        ("127.0.0.1", 1, "127.0.0.1"),
        ("localhost", 1, "127.0.0.1"),
        ("fd00::1", 80, "fd00::1"),
    ],
)
async def test_what_is_listed_is_allowed(host: str, port: int, address: str) -> None:
    assert await allowed_address([SERVICES, LOOPBACK, V6], host, port) == address


@pytest.mark.parametrize(
    ("host", "port"), [("10.96.0.1", 80), ("10.0.0.1", 443), ("fd01::1", 80), ("::1", 80), ("192.0.2.1", 1)]
)
async def test_what_is_not_listed_is_forbidden(host: str, port: int) -> None:
    with pytest.raises(PermissionDenied, match="not among the destinations that way_back allows"):
        await allowed_address([SERVICES, LOOPBACK, V6], host, port)


@pytest.mark.parametrize("host", ["", "no such host.invalid", "x" * 255, "\ufffd"])
async def test_a_name_that_means_nothing_is_not_found(host: str) -> None:
    with pytest.raises(NotFound):
        await allowed_address([LOOPBACK], host, 80)
