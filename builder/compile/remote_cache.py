"""Shares compiled objects with other machines: answers ccache's questions from a remote storage.

ccache asks a storage helper over a local socket (ccache's "Remote storage helper specification"). The build
itself is this helper, because ccache's own clients for Redis and HTTP, which it is about to drop, take
whatever lies under a key for the object, wait without end for a server that sends a byte now and then, and
need the address with its password in a file or in the environment of each compiler.

Here each object is signed together with its key: one that was damaged, exchanged or made by somebody without
the secret is not used. A storage that fails or does not answer in time is done without.
"""

from __future__ import annotations

import hmac
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from builder.compile.remote_storage import open_storage
from builder.util.addresses import public_address
from builder.util.limits import ATTEMPTS, REMOTE_SECONDS

_Answer = TypeVar("_Answer")
_LATE = "no answer in time"
_TAG_BYTES = 32
# The protocol: version 1 with one capability; the requests; and the answers.
_GREETING = b"\x01\x01\x00"
_GET, _PUT, _REMOVE = b"\x00", b"\x01", b"\x02"
_OK, _NOTHING = b"\x00", b"\x01"


class RemoteCache:
    """A remote cache of compiled objects, for one build.

    Args:
        url: Where the objects are; see `open_storage`.
        secret: What machines that share objects have in common; empty for none.
        read_only: Take objects and store none.
        seconds: How long an object may take.

    Attributes:
        url: What may be printed of the address.
    """

    def __init__(
        self, url: str, secret: str = "", *, read_only: bool = False, seconds: float = REMOTE_SECONDS
    ) -> None:
        self.url = public_address(url)
        self._troubles: dict[str, int] = {}
        self._read_only = read_only
        self._secret = secret.encode()
        self._storage = open_storage(url, seconds)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._since: dict[object, float] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the object of a key; None if there is none that can be used."""
        data = self._try(lambda: self._storage.get(self._name(key)))
        if not data:
            return None
        if not hmac.compare_digest(data[:_TAG_BYTES], self._tag(key, data[_TAG_BYTES:])):
            self._trouble("an object is not the one that was stored")
            return None
        return data[_TAG_BYTES:]

    def put(self, key: bytes, value: bytes) -> bool:
        """Store an object; returns whether it is stored now."""
        if self._read_only:
            return False
        data = self._tag(key, value) + value

        def ask() -> bool:
            self._storage.put(self._name(key), data)
            return True

        return self._try(ask) is True

    def troubles(self) -> list[str]:
        """Return what went wrong until now, each kind with how often."""
        with self._lock:
            hung = {_LATE: self._troubles.get(_LATE, 0) + len(self._hung())} if self._hung() else {}
            return [f"{what} ({count} times)" for what, count in {**self._troubles, **hung}.items()]

    @contextmanager
    def setting(self, tree: Path, name: str) -> Iterator[str]:
        """Answer while the block runs; yields ccache's setting `remote_storage` that leads here.

        Args:
            tree: The folder that ccache runs in.
            name: A path in it for the socket. It is relative, since the path of a socket can't be long.
        """
        (tree / name).unlink(missing_ok=True)
        folder = os.open((tree / name).parent, os.O_PATH)
        try:
            with _Server(self, f"/proc/self/fd/{folder}/{Path(name).name}") as server:
                thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
                thread.start()
                try:
                    wait = f"{self._seconds * 1000:.0f}ms"
                    waits = f"data-timeout={wait} request-timeout={wait}"
                    yield f"crsh:{name} {waits}{' read-only' if self._read_only else ''}"
                finally:
                    server.shutdown()
                    thread.join()
        finally:
            os.close(folder)

    def _name(self, key: bytes) -> str:
        """A name that only who knows the secret can tell."""
        return hmac.new(self._secret, b"name" + key, "sha256").hexdigest()

    def _tag(self, key: bytes, value: bytes) -> bytes:
        return hmac.new(self._secret, b"object" + key + value, "sha256").digest()

    def _try(self, ask: Callable[[], _Answer | None]) -> _Answer | None:
        """Return what the storage answers; None where it fails, hangs, or has failed too often."""
        with self._lock:
            if self._hung() or sum(self._troubles.values()) >= ATTEMPTS:
                return None
            self._since[ask] = begin = time.monotonic()
        try:
            return ask()
        except Exception as error:
            own = type(error) is ConnectionError
            self._trouble(str(error) if own else getattr(error, "strerror", None) or type(error).__name__)
            return None
        finally:
            with self._lock:
                del self._since[ask]
            if time.monotonic() - begin > self._seconds:
                self._trouble(_LATE)

    def _hung(self) -> list[float]:
        now = time.monotonic()
        return [since for since in self._since.values() if now - since > self._seconds]

    def _trouble(self, what: str) -> None:
        with self._lock:
            self._troubles[what] = self._troubles.get(what, 0) + 1


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False  # one may wait for the storage as long as it likes
    request_queue_size = 128

    def __init__(self, cache: RemoteCache, path: str) -> None:
        self.cache = cache
        super().__init__(path, _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: ccache, or the compile that it was for, has gone."""


class _Handler(socketserver.StreamRequestHandler):
    """Answers one ccache."""

    server: _Server

    def handle(self) -> None:
        self.wfile.write(_GREETING)
        while (request := self.rfile.read(1)) in (_GET, _PUT, _REMOVE):
            key, answer = self._read(1), _NOTHING
            if request == _GET and (value := self.server.cache.get(key)) is not None:
                answer = _OK + len(value).to_bytes(8, sys.byteorder) + value
            elif request == _PUT:
                self.rfile.read(1)  # whether to replace an older one, which is done in any case
                answer = _OK if self.server.cache.put(key, self._read(8)) else _NOTHING
            self.wfile.write(answer)

    def _read(self, length_bytes: int) -> bytes:
        return self.rfile.read(int.from_bytes(self.rfile.read(length_bytes), sys.byteorder))
