"""Downloads that are verified before anything uses them.

A file is streamed to `<name>.part`, resumed there after a broken connection (RFC 9110, "Range Requests":
`Range` with `If-Range`), checked for size and SHA-256, and only then renamed into the cache. So what the
cache holds under its final name is whole and right.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3.exceptions

from builder.util.digest import file_sha256
from builder.util.errors import DownloadError
from builder.util.log import say, warn

_CHUNK_BYTES = 1 << 18
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 60.0
# So much in one attempt shows that the connection is worth going on with, however often it breaks.
_PROGRESS_BYTES = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def download(
    url: str,
    sha256: str | None,
    size_bytes: int | None,
    cache_dir: Path,
    *,
    progress: bool = True,
    attempts: int = 5,
    timeout_seconds: float = 60.0,
    backoff_seconds: float = 1.0,
) -> Path:
    """Have a file in the cache, from there or from its address.

    Args:
        url: An http or https address.
        sha256: The digest that it must have. With None there is nothing to verify and nothing to know
            an earlier copy by, so it is downloaded each time.
        size_bytes: The size that it must have, where it is known.
        cache_dir: The folder of downloads; made if missing.
        progress: Show how far it is: a bar on a terminal, else a line every tenth.
        attempts: How often in a row to try while nothing comes.
        timeout_seconds: How long to wait for a connection, and for each next piece.
        backoff_seconds: Pause before the second attempt; each further one is twice as long.

    Returns:
        The verified file, `<start of its sha256>-<name>` in the cache.

    Raises:
        DownloadError: It can't be had, or is not what it must be; nothing is left under its name.
    """
    name = _file_name(url)
    key = sha256[:16] if sha256 else hashlib.sha256(url.encode()).hexdigest()[:16]
    final = cache_dir / f"{key}-{name}"
    wanted = _Wanted(url, name, sha256, size_bytes)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(final, name):
            if sha256 is not None and final.exists():
                if file_sha256(final) == sha256:
                    return final
                warn(f"{final} does not have its hash any more; downloading it again")
                final.unlink()
            part = _Part(final.with_name(f"{final.name}.part"), wanted)
            _fetch(part, wanted, _Patience(attempts, timeout_seconds, backoff_seconds), progress)
            part.path.replace(final)
            part.forget()
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DownloadError(
                f"No space for {name} in {cache_dir} ({error.strerror}).",
                "Free some, or put the cache elsewhere with --cache-dir DIR; the download then goes on.",
            ) from error
        raise DownloadError(
            f"{name} can't be written to {cache_dir}: {error}.",
            "Put the cache elsewhere with --cache-dir DIR.",
        ) from error
    return final


@dataclass(frozen=True)
class _Wanted:
    url: str
    name: str
    sha256: str | None
    size_bytes: int | None


@dataclass(frozen=True)
class _Patience:
    attempts: int
    timeout_seconds: float
    backoff_seconds: float

    def wait(self, failures: int, asked_seconds: float) -> None:
        """Sleep before the attempt after this many failures in a row, or as long as the server asks."""
        seconds = max(self.backoff_seconds * 2 ** (failures - 1), asked_seconds)
        time.sleep(min(seconds, _LONGEST_WAIT_SECONDS))


class _Transient(Exception):  # noqa: N818 - not an error yet: it is tried again
    """A failure that may pass.

    Attributes:
        wait_seconds: What the server asked for with `Retry-After`.
    """

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Part:
    """The bytes that have come so far, and how the server marked the file that they are of."""

    def __init__(self, path: Path, wanted: _Wanted) -> None:
        self.path = path
        self._mark = path.with_name(f"{path.name}.mark")
        self._wanted = wanted

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str | None:
        """What `If-Range` takes: a strong ETag or a date."""
        try:
            mark = json.loads(self._mark.read_text())
        except (OSError, ValueError):
            return None
        same = isinstance(mark, dict) and mark.get("url") == self._wanted.url
        return str(mark["validator"]) if same and mark.get("validator") else None

    def remember(self, headers: requests.structures.CaseInsensitiveDict[str]) -> None:
        etag = headers.get("ETag", "")
        # A weak ETag is not allowed in If-Range (RFC 9110, 13.1.5).
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        if validator or not self.size_bytes:
            self._mark.write_text(json.dumps({"url": self._wanted.url, "validator": validator}))

    def restart(self) -> None:
        self.path.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        self._mark.unlink(missing_ok=True)


def _fetch(part: _Part, wanted: _Wanted, patience: _Patience, progress: bool) -> None:
    """Bring the part to the whole, verified file."""
    again = False
    failures = 0
    with requests.Session() as session:
        while True:
            before = part.size_bytes
            try:
                _attempt(session, part, wanted, patience.timeout_seconds, progress)
                problem = _problem(part, wanted)
                if not problem:
                    return
                part.restart()
                if again or not before:
                    raise DownloadError(problem, "The file at that address is not the one that was pinned.")
                # The piece that was there before may be what is wrong: once more, from the start.
                warn(f"{problem} Starting again from its first byte.")
                again = True
            except _Transient as error:
                failures = 1 if part.size_bytes - before >= _PROGRESS_BYTES else failures + 1
                if failures >= patience.attempts:
                    raise DownloadError(
                        f"{wanted.url} could not be downloaded: {error}; tried {failures} times.",
                        "Check the connection (and the proxy, where there is one), then run again: it goes "
                        "on where it stopped.",
                    ) from None
                warn(f"{wanted.name}: {error}; trying again")
                patience.wait(failures, error.wait_seconds)


def _problem(part: _Part, wanted: _Wanted) -> str:
    """What is wrong with a file that came whole; empty where nothing is."""
    if wanted.size_bytes is not None and part.size_bytes != wanted.size_bytes:
        return f"{wanted.url} has {part.size_bytes:,} bytes, expected {wanted.size_bytes:,}."
    if wanted.sha256 is not None:
        got = file_sha256(part.path)
        if got != wanted.sha256:
            return f"{wanted.url} has the wrong bytes: expected sha256 {wanted.sha256}, got {got}."
    return ""


def _attempt(
    session: requests.Session, part: _Part, wanted: _Wanted, timeout_seconds: float, progress: bool
) -> None:
    """One request, whose bytes go to the part.

    Raises:
        _Transient: Worth another try.
        DownloadError: Not so.
    """
    # Compressed on the way, ranges would count other bytes than the file's.
    headers = {"Accept-Encoding": "identity"}
    if not part.validator and not wanted.sha256:
        part.restart()  # nothing would tell whether the rest is of the same file
    if part.size_bytes:
        headers["Range"] = f"bytes={part.size_bytes}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with session.get(wanted.url, headers=headers, stream=True, timeout=timeout_seconds) as response:
            _check_status(response, part, wanted)
            total = _place(response, part, wanted)
            if total is not None and part.size_bytes == total:
                return
            part.remember(response.headers)
            _check_space(part, total, wanted)
            _store(response, part, total, _Progress(wanted.name, total, progress))
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.TooManyRedirects,
    ) as error:
        raise DownloadError(f"{wanted.url} is an address that can't be downloaded: {error}.") from None
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"{wanted.url}: no trusted connection: {error}.",
            "Behind a proxy with its own certificate, name that in REQUESTS_CA_BUNDLE.",
        ) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Transient(_in_short(error)) from None


def _check_status(response: requests.Response, part: _Part, wanted: _Wanted) -> None:
    if wanted.url.startswith("https://") and not response.url.startswith("https://"):
        raise DownloadError(f"{wanted.url} leads to {response.url}, which is not https.")
    status = response.status_code
    if status in {requests.codes.ok, requests.codes.partial_content}:
        return
    if status == requests.codes.requested_range_not_satisfiable:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if total is not None and int(total[1]) == part.size_bytes:
            return  # all of it is here already
        part.restart()
        raise _Transient("the server has no such range of it")
    said = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in _RETRIED_STATUS:
        raise _Transient(said, _retry_after_seconds(response))
    raise DownloadError(
        f"{wanted.url} could not be downloaded: {said}.",
        "Check the address; it may have moved." if status in {404, 410} else "",
    )


def _retry_after_seconds(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,5}", text) else 0.0


def _place(response: requests.Response, part: _Part, wanted: _Wanted) -> int | None:
    """See where in the file this answer starts, and how long the whole is (None where it isn't said)."""
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        return part.size_bytes
    if response.status_code == requests.codes.partial_content:
        got = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if got is None or int(got[1]) != part.size_bytes:
            part.restart()
            raise _Transient("the server sent another range than asked for")
        total = int(got[3]) if got[3] != "*" else None
    else:
        part.restart()  # the whole from its start: the server knows no ranges, or the file has changed
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    if total is not None and wanted.size_bytes is not None and total != wanted.size_bytes:
        part.restart()
        raise DownloadError(
            f"{wanted.url} has {total:,} bytes, expected {wanted.size_bytes:,}.",
            "The file at that address is not the one that was pinned.",
        )
    return total if total is not None else wanted.size_bytes


def _check_space(part: _Part, total: int | None, wanted: _Wanted) -> None:
    if total is None:
        return
    needed = total - part.size_bytes
    free = shutil.disk_usage(part.path.parent).free
    if needed > free:
        raise DownloadError(
            f"No space for {wanted.name} in {part.path.parent}: it needs {_size(needed)}, and {_size(free)} "
            "are free.",
            "Free some, or put the cache elsewhere with --cache-dir DIR.",
        )


def _store(response: requests.Response, part: _Part, total: int | None, progress: _Progress) -> None:
    with part.path.open("ab") as file, progress:
        progress.at(file.tell())
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            file.write(chunk)
            progress.at(file.tell())
            if total is not None and file.tell() > total:
                break
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if total is not None and size < total:
        raise _Transient(f"the connection ended after {size:,} of {total:,} bytes")


class _Progress:
    """How far a download is: a bar that is drawn anew on a terminal, else a line every tenth."""

    _WIDTH = 30
    _REDRAW_SECONDS = 0.1
    _LINE_BYTES = 4 << 20

    def __init__(self, name: str, total: int | None, shown: bool) -> None:
        self._name = name
        self._total = total
        self._bar = shown and sys.stdout.isatty()
        self._lines = shown and not self._bar
        self._start = time.monotonic()
        self._first: int | None = None
        self._last = 0
        self._drawn = 0.0
        self._next_line = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._draw(self._last)
            say()

    def at(self, size_bytes: int) -> None:
        """Say that this much of the file is here."""
        if self._first is None:
            self._first = size_bytes
        self._last = size_bytes
        if self._bar and time.monotonic() - self._drawn >= self._REDRAW_SECONDS:
            self._draw(size_bytes)
        if self._lines and (size_bytes >= self._next_line or size_bytes == self._total):
            self._print(size_bytes)

    def _draw(self, size_bytes: int) -> None:
        self._drawn = time.monotonic()
        rate = (size_bytes - (self._first or 0)) / max(self._drawn - self._start, 0.001)
        bar = ""
        if self._total:
            filled = self._WIDTH * size_bytes // self._total
            bar = f"[{'#' * filled}{' ' * (self._WIDTH - filled)}] {100 * size_bytes // self._total:3d}% of "
            bar += f"{_size(self._total)}"
        print(f"\r\033[K  {self._name} {bar or _size(size_bytes)}, {_size(int(rate))}/s", end="", flush=True)

    def _print(self, size_bytes: int) -> None:
        share = (
            f"{100 * size_bytes // self._total}% of {_size(self._total)}"
            if self._total
            else _size(size_bytes)
        )
        say(f"  {self._name}: {share}")
        self._next_line = size_bytes + max(self._LINE_BYTES, (self._total or 0) // 10)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _in_short(error: Exception) -> str:
    """One line of an error, which for requests and urllib3 is often a tower of them."""
    cause: BaseException = error
    while isinstance(cause.__context__, Exception):
        cause = cause.__context__
    return " ".join(str(cause).split()) or type(error).__name__


def _file_name(url: str) -> str:
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", last, flags=re.ASCII).lstrip(".")[-100:] or "download"


@contextmanager
def _only_one(final: Path, name: str) -> Iterator[None]:
    """Let one process at a time download a file; the others wait, and find it in the cache."""
    with final.with_name(f"{final.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  waiting for another process that downloads {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
