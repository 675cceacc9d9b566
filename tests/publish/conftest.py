"""What the tests of the index and of releases share."""

from __future__ import annotations

import http.server
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from made_up_wheels import (
    NATIVE,
    NATIVE_BASIC,
    OLDER_CUDA,
    UNIVERSAL,
    UNIVERSAL_BASIC,
    make_ours,
    write_report,
)
from played_github import TOKEN, Handler, Played, State
from static_server import StaticServer, serving


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    make_ours(folder, NATIVE, NATIVE_BASIC, UNIVERSAL, UNIVERSAL_BASIC)
    make_ours(folder, OLDER_CUDA, target="cp311-cu128", cuda="12.8")
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Path], StaticServer]]:
    """Serve folders until the test ends."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(serving(folder))


@pytest.fixture
def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Played]:
    """After each test the token must not have been seen: in no output, and in no error."""
    for name in ("GH_TOKEN", "GITHUB_API_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wheels = make_ours(tmp_path / "wheelhouse", NATIVE, NATIVE_BASIC, UNIVERSAL)
    write_report(wheels[0])
    state = State()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Playing", (Handler,), {"state": state}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    fixture = Played(f"http://127.0.0.1:{server.server_port}", state, tmp_path / "wheelhouse")
    yield fixture
    server.shutdown()
    server.server_close()
    printed = capsys.readouterr()
    seen = [printed.out, printed.err]
    for error in fixture.errors:
        seen += [repr(error), str(error), *traceback.format_exception(error)]
        seen += [repr(vars(error)), repr(error.__cause__)]
    assert not [text for text in seen if TOKEN in text]
