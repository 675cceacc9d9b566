"""What the tests of sources and patches work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_source import Workbench, make_checkout
from static_server import StaticServer, serving


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory of the user's."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[StaticServer]:
    """A server of a folder."""
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A folder of patches and a tree."""
    return Workbench(tmp_path)
