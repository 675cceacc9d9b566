"""Downloads that are verified before anything uses them.

A file is streamed to `<name>.part`, continued there after a broken connection (RFC 9110, "Range Requests":
`Range` with `If-Range`), checked for size and SHA-256, and only then renamed. So a file that the cache has
under its final name is whole and right.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import requests
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from builder.util import limits
from builder.util.addresses import public_address
from builder.util.answers import send
from builder.util.deadline import deadline
from builder.util.digest import file_sha256
from builder.util.downloads.download_progress import DownloadProgress, megabytes
from builder.util.errors import DownloadError
from builder.util.files import locked, remove_stale
from builder.util.log import say, warn

_CHUNK_BYTES = 256 * limits.KIB
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
# So much in one attempt shows that it is worth continuing, however often the connection breaks.
_PROGRESS_BYTES = limits.MIB
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def download(
    url: str,
    sha256: str | None,
    size_bytes: int | None,
    cache_dir: Path,
    *,
    attempts: int = limits.ATTEMPTS,
    timeout_seconds: float = limits.REQUEST_SECONDS,
    backoff_seconds: float = 1.0,
    most_bytes: int = limits.DOWNLOAD_BYTES,
) -> Path:
    """Return a file of the cache, downloaded if it is not there.

    Args:
        url: An http or https address.
        sha256: The digest that it must have. With None nothing can be verified, nor an earlier copy
            recognised, so it is downloaded each time.
        size_bytes: The size that it must have, where it is known.
        cache_dir: The folder of downloads; made if missing.
        attempts: How often in a row to try while nothing comes.
        timeout_seconds: How long to wait for a connection, and for each next piece of 64 KiB.
        backoff_seconds: Half the pause before the third attempt; each further one is twice as long. The
            second follows at once.
        most_bytes: The most that it may have where no size is given.

    Returns:
        The verified file, `<start of its sha256>-<name>` in the cache.

    Raises:
        DownloadError: It can't be obtained, or is not what it must be; nothing is left under its name.
    """
    name = _file_name(url)
    final = cache_dir / f"{sha256[:16] if sha256 else _key(url)}-{name}"
    part = _Part(url, name, sha256, size_bytes, most_bytes, cache_dir / f"{final.name}.part")
    patience = Retry(
        total=attempts - 1,
        backoff_factor=backoff_seconds,
        backoff_max=limits.LONGEST_BACKOFF_SECONDS,
        retry_after_max=limits.LONGEST_BACKOFF_SECONDS,
    )
    try:
        lock = final.with_name(f"{final.name}.lock")
        with locked(lock, lambda: say(f"  waiting for another process that downloads {name}")):
            remove_stale(cache_dir, "*.part*")
            if sha256 is not None and final.exists():
                if file_sha256(final) == sha256:
                    return final
                warn(f"{final} has a different SHA-256 than when it was downloaded; downloading it again")
                final.unlink()
            _fetch(part, patience, timeout_seconds)
            part.path.replace(final)
            part.forget()
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DownloadError(
                f"No space for {name} in {cache_dir} ({error.strerror}).",
                "Free some, or put the cache elsewhere with --cache-dir DIR; the download then continues.",
            ) from error
        raise DownloadError(
            f"{name} can't be written to {cache_dir}: {error}.",
            "Put the cache elsewhere with --cache-dir DIR.",
        ) from error
    return final


class WrongDigestError(DownloadError):
    """A whole file that has a different SHA-256 than it must have."""


class _Transient(Exception):  # noqa: N818 - not an error yet: it is tried again
    """A failure that may pass.

    Attributes:
        response: The server's answer, if there was one; it may ask for a pause with `Retry-After`.
    """

    def __init__(self, reason: str, response: BaseHTTPResponse | None = None) -> None:
        super().__init__(reason)
        self.response = response


@dataclass(frozen=True)
class _Part:
    """A download: what it must be, the bytes that have come, and how the server marked their version."""

    url: str
    name: str
    sha256: str | None
    expected_bytes: int | None
    most_bytes: int
    path: Path

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.mark")

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
        same = isinstance(mark, dict) and mark.get("url") == _key(self.url)
        return str(mark["validator"]) if same and mark.get("validator") else None

    def remember(self, headers: requests.structures.CaseInsensitiveDict[str]) -> None:
        etag = headers.get("ETag", "")
        # A weak ETag is not allowed in If-Range (RFC 9110, 13.1.5).
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        if validator or not self.size_bytes:
            self._mark.write_text(json.dumps({"url": _key(self.url), "validator": validator}))

    def restart(self) -> None:
        self.path.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        self._mark.unlink(missing_ok=True)


def _fetch(part: _Part, patience: Retry, timeout_seconds: float) -> None:
    """Bring the part to the whole, verified file."""
    again = False
    retries = patience
    with requests.Session() as session:
        while True:
            before = part.size_bytes
            try:
                _attempt(session, part, timeout_seconds)
                problem = _problem(part)
                if not problem:
                    return
                part.restart()
                if again or not before:
                    raise WrongDigestError(
                        problem, "The file at that address is not the one that was pinned."
                    )
                # The piece that was there before may be what is wrong: once more, from the start.
                warn(f"{problem} Starting again from its first byte.")
                again = True
            except _Transient as error:
                if part.size_bytes - before >= _PROGRESS_BYTES:
                    retries = patience
                retries = _next_try(retries, error, part)


def _next_try(retries: Retry, error: _Transient, part: _Part) -> Retry:
    """Wait for the next attempt, or give up; return what is left of the patience."""
    try:
        left = retries.increment(error=error)
    except MaxRetryError:
        raise DownloadError(
            f"{part.url} could not be downloaded: {error}; tried {len(retries.history) + 1} times.",
            "Check the connection (and the proxy, where there is one), then run again: it continues where "
            "it stopped.",
        ) from None
    warn(f"{part.name}: {error}; trying again")
    try:
        left.sleep(error.response)
    except InvalidHeader:
        left.sleep()
    return left


def _problem(part: _Part) -> str:
    """Return what is wrong with a whole file; empty where nothing is."""
    if not part.size_bytes:
        return f"{part.url} is empty."
    if part.expected_bytes is not None and part.size_bytes != part.expected_bytes:
        return f"{part.url} has {part.size_bytes:,} bytes, expected {part.expected_bytes:,}."
    if part.sha256 is not None:
        got = file_sha256(part.path)
        if got != part.sha256:
            return f"{part.url} has a different SHA-256: expected {part.sha256}, got {got}."
    return ""


def _attempt(session: requests.Session, part: _Part, timeout_seconds: float) -> None:
    """One request, whose bytes go to the part.

    Raises:
        _Transient: Worth another try.
        DownloadError: Not worth one.
    """
    # In a compressed answer, ranges would not count the file's own bytes.
    headers = {"Accept-Encoding": "identity"}
    if not part.validator and not part.sha256:
        part.restart()  # nothing would tell whether the rest is of the same file
    if part.size_bytes:
        headers["Range"] = f"bytes={part.size_bytes}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with deadline(2 * timeout_seconds):  # for an answer that begins and never gets to its body
            response = send(session, "GET", part.url, headers=headers, stream=True, timeout=timeout_seconds)
        with response:
            _check_status(response, part)
            total = _place(response, part)
            if total is not None and part.size_bytes == total:
                return
            part.remember(response.headers)
            _check_space(part, total)
            _store(response, part, total, timeout_seconds)
    except (ValueError, requests.exceptions.TooManyRedirects) as error:  # ValueError: not an address or proxy
        raise DownloadError(f"{part.url} can't be downloaded: {error}.") from None
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"{part.url}: no trusted connection: {error}.",
            "Behind a proxy with its own certificate, name that in REQUESTS_CA_BUNDLE.",
        ) from None
    except (requests.exceptions.RequestException, HTTPError, TimeoutError) as error:
        raise _Transient(_in_short(error)) from None


def _check_status(response: requests.Response, part: _Part) -> None:
    if part.url.startswith("https://") and not response.url.startswith("https://"):
        raise DownloadError(f"{part.url} leads to {response.url}, which is not https.")
    status = response.status_code
    if status in {requests.codes.ok, requests.codes.partial_content}:
        return
    if status == requests.codes.requested_range_not_satisfiable:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if total is not None and int(total[1]) == part.size_bytes:
            return  # all of it is here already
        part.restart()
        raise _Transient("the server does not have that range of it")
    said = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in _RETRIED_STATUS:
        raise _Transient(said, response.raw)
    raise DownloadError(
        f"{part.url} could not be downloaded: {said}.",
        "Check the address; it may have moved." if status in {404, 410} else "",
    )


def _place(response: requests.Response, part: _Part) -> int | None:
    """Check where in the file an answer starts; return the whole file's size, None where it is not known."""
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        return part.size_bytes
    if response.status_code == requests.codes.partial_content:
        got = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if got is None or int(got[1]) != part.size_bytes:
            part.restart()
            raise _Transient("the server sent a different range")
        total = int(got[3]) if got[3] != "*" else None
    else:
        part.restart()  # the whole from its start: the server knows no ranges, or the file has changed
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    if total is not None and part.expected_bytes is not None and total != part.expected_bytes:
        part.restart()
        raise DownloadError(
            f"{part.url} has {total:,} bytes, expected {part.expected_bytes:,}.",
            "The file at that address is not the one that was pinned.",
        )
    return total if total is not None else part.expected_bytes


def _check_space(part: _Part, total: int | None) -> None:
    if total is None:
        return
    if part.expected_bytes is None and total > part.most_bytes:
        raise _too_large(part)
    needed = total - part.size_bytes
    free = shutil.disk_usage(part.path.parent).free
    if needed > free:
        raise DownloadError(
            f"No space for {part.name} in {part.path.parent}: it needs {megabytes(needed)}, "
            f"and {megabytes(free)} are free.",
            "Free some, or put the cache elsewhere with --cache-dir DIR.",
        )


def _store(response: requests.Response, part: _Part, total: int | None, timeout_seconds: float) -> None:
    with part.path.open("ab") as file, DownloadProgress(part.name, total) as progress:
        progress.at(file.tell())
        pace = _Pace(timeout_seconds)
        # `read1` returns what has come; `read` and `stream` wait for the whole chunk, however slow it comes.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            file.write(chunk)
            progress.at(file.tell())
            pace.check(file.tell())
            if total is not None and file.tell() > total:
                break
            if total is None and file.tell() > part.most_bytes:
                raise _too_large(part)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if total is not None and size < total:
        raise _Transient(f"the connection ended after {size:,} of {total:,} bytes")


def _too_large(part: _Part) -> DownloadError:
    part.restart()
    return DownloadError(f"{part.url} has more than {part.most_bytes:,} bytes, the limit.")


class _Pace:
    """Whether bytes come fast enough: a server that sends one now and then would never be given up."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._since, self._size_bytes = seconds, time.monotonic(), 0

    def check(self, size_bytes: int) -> None:
        """Note how many bytes there are; raises `_Transient` where too few came for too long."""
        if size_bytes - self._size_bytes >= limits.SLOWEST_BYTES:
            self._since, self._size_bytes = time.monotonic(), size_bytes
        elif time.monotonic() - self._since > self._seconds:
            raise _Transient(f"fewer than {limits.SLOWEST_BYTES:,} bytes came in {self._seconds:g} s")


def _in_short(error: Exception) -> str:
    """Return the innermost cause in one line: requests and urllib3 wrap errors in errors."""
    cause: BaseException = error
    while isinstance(cause.__context__, Exception):
        cause = cause.__context__
    return " ".join(str(cause).split()) or type(error).__name__


def _key(url: str) -> str:
    """Return a digest in place of an address, which may contain a password."""
    return hashlib.sha256(os.fsencode(url)).hexdigest()[:16]


def _file_name(url: str) -> str:
    path = public_address(url).partition("://")[2].partition("/")[2]
    last = unquote(path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", last, flags=re.ASCII).lstrip(".")[-100:] or "download"
