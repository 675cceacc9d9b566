"""What the tests of sources and patches work on."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_source import Workbench, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory of the user's."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A folder of patches and a tree."""
    return Workbench(tmp_path)
