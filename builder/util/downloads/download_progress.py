"""Shows how far a download is."""

from __future__ import annotations

import sys
import time

from builder.util.limits import MIB
from builder.util.log import say


def megabytes(size_bytes: int) -> str:
    """Return a size for people: `12.3 MB`."""
    return f"{size_bytes / 1e6:,.1f} MB"


class DownloadProgress:
    """A bar that is drawn again and again on a terminal, or elsewhere a line every tenth of the way.

    Args:
        name: What is downloaded.
        total: Its size in bytes; None where it is not known.
    """

    _WIDTH = 30
    _REDRAW_SECONDS = 0.1
    _LINE_BYTES = 4 * MIB

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._bar = sys.stdout.isatty()
        self._start = time.monotonic()
        self._first: int | None = None
        self._last = 0
        self._drawn = 0.0
        self._next_line = 0

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._draw(self._last)
            say()

    def at(self, size_bytes: int) -> None:
        """Show that this many bytes of the file are here."""
        if self._first is None:
            self._first = size_bytes
        self._last = size_bytes
        if self._bar and time.monotonic() - self._drawn >= self._REDRAW_SECONDS:
            self._draw(size_bytes)
        elif not self._bar and (size_bytes >= self._next_line or size_bytes == self._total):
            self._print(size_bytes)

    def _draw(self, size_bytes: int) -> None:
        self._drawn = time.monotonic()
        rate = (size_bytes - (self._first or 0)) / max(self._drawn - self._start, 0.001)
        bar = ""
        if self._total:
            filled = self._WIDTH * size_bytes // self._total
            bar = f"[{'#' * filled}{' ' * (self._WIDTH - filled)}] "
        shown = f"{self._name} {bar}{self._share(size_bytes)}, {megabytes(int(rate))}/s"
        print(f"\r\033[K  {shown}", end="", flush=True)

    def _print(self, size_bytes: int) -> None:
        say(f"  {self._name}: {self._share(size_bytes)}")
        self._next_line = size_bytes + max(self._LINE_BYTES, (self._total or 0) // 10)

    def _share(self, size_bytes: int) -> str:
        if not self._total:
            return megabytes(size_bytes)
        return f"{100 * size_bytes // self._total}% of {megabytes(self._total)}"
