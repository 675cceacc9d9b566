"""What the tests of the index and of releases share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes.index_wheels import NATIVE, NATIVE_BASIC, OLDER_CUDA, UNIVERSAL, UNIVERSAL_BASIC, make_ours
from fakes.static_server import StaticServer, serving


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    make_ours(folder, NATIVE, NATIVE_BASIC, UNIVERSAL, UNIVERSAL_BASIC, OLDER_CUDA)
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Path], StaticServer]]:
    """Serve folders until the test ends."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(serving(folder))
