"""A local HTTP server that hands out a folder, and remembers what it was asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class StaticServer:
    """A running server.

    Attributes:
        folder: What it hands out; folders are listed as a package index lists files.
        url: Its address.
        requests: The path of each request, in order.
    """

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, static: StaticServer, **named: object) -> None:
        self._static = static
        super().__init__(*arguments, directory=str(static.folder), **named)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._static.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[StaticServer]:
    """Hand out a folder while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    static = StaticServer(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, static=static)) as server:
        static.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield static
        finally:
            server.shutdown()
            thread.join()
