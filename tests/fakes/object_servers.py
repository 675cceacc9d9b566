"""Servers that keep compiled objects for the remote compiler cache: good ones, and some that lie or hang."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server (apt install redis-server)"
)


@contextmanager
def redis_server(folder: Path, password: str = "") -> Iterator[str]:
    """Run a real Redis server while the block runs; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += ["--requirepass", password] if password else []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                with socket.socket() as link:
                    if link.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            user = f":{quote(password, safe='')}@" if password else ""
            yield f"redis://{user}127.0.0.1:{port}"
        finally:
            server.terminate()


class WebObjects:
    """What an HTTP server keeps, and how it answers.

    Attributes:
        objects: Body by path.
        authorizations: The header of each request.
        lie: Makes what is sent of what is kept, given the path.
        status: Answered to everything, if it is not 0.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.authorizations: list[str] = []
        self.lie: Callable[[str, bytes], bytes] = lambda _, body: body
        self.status = 0


@contextmanager
def web_server(kept: WebObjects) -> Iterator[str]:
    """Run an HTTP server that takes PUT and GET while the block runs; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(kept.status or status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            kept.authorizations.append(self.headers.get("Authorization", ""))
            body = kept.objects.get(self.path)
            self._answer(404 if body is None else 200, b"" if body is None else kept.lie(self.path, body))

        def do_PUT(self) -> None:
            kept.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(201)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that does with each connection what it is told; yields its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_talk, args=(talk, link), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _talk(talk: Callable[[socket.socket], None], link: socket.socket) -> None:
    try:
        with link:
            talk(link)
    except OSError:
        pass  # the other side has gone
