"""Pools over the bed's real registry, which this machine reaches by its address."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from multicri_images.builders import APPTAINER, CHARLIECLOUD
from multicri_images.pool import pool
from testbed import Testbed
from testbed.door import Door

from multicri_proxy.api.adapter import ImagesContext
from multicri_proxy.api.image import ImagePool
from multicri_proxy.secrets import SealedSecrets

sys.path.insert(0, str(Path(__file__).parent))

from pool_bench import MemoryStore, OpenPool


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def open_pool(bed: Testbed, store: MemoryStore) -> OpenPool:
    """Opens a pool over the store, with these settings, that trusts the bed's authority."""
    ca_file = str(bed.registry.authority.certificate)
    doors = (bed.registry.address, f"{bed.registry.address}:5443", f"{bed.registry.address}:5444")

    @asynccontextmanager
    async def opened(**settings: object) -> AsyncIterator[ImagePool]:
        registries = {door: {"ca_file": ca_file} for door in doors} | {
            f"{bed.registry.address}:5000": {"plain_http": True}
        }
        context = ImagesContext(
            settings={"registries": registries, "resolve": "always", **settings},
            store=store,
            secrets=SealedSecrets(bytes(32)),
            image_builders=(APPTAINER, CHARLIECLOUD),
        )
        async with pool(context) as images:
            yield images

    return opened


@pytest.fixture
def private(bed: Testbed) -> Iterator[Door]:
    """The registry behind a password, over TLS."""
    with Door(registry=bed.registry, port=5443, private=True).opened() as door:
        yield door


@pytest.fixture
def plain(bed: Testbed) -> Iterator[Door]:
    """The registry without TLS."""
    with Door(registry=bed.registry, port=5000, tls=False).opened() as door:
        yield door
