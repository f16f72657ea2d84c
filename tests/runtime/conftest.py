"""A node to serve CRI on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.doubles import Client, Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    async with node.running() as runtime:
        yield Client(node, runtime)
