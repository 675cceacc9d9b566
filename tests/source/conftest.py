"""What the tests of sources and patches work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.source import make_checkout
from fakes.static_server import StaticServer, serving


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory of the user's."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[StaticServer]:
    """A server of a folder."""
    with serving(tmp_path / "served") as server:
        yield server
