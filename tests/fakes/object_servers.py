"""Servers that keep compiled objects for the remote compiler cache."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
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


@contextmanager
def web_server(*, damaged: bool = False) -> Iterator[str]:
    """Run an HTTP server that takes PUT and GET while the block runs; yields its address."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            body = objects.get(self.path, b"")
            self._answer(200 if body else 404, body[:-20] + bytes(20) if body and damaged else body)

        def do_PUT(self) -> None:
            objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
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
