"""Downloads over HTTP: three tries, short timeouts, and a SHA-256 where there is one to compare."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests

from builder.util.errors import DownloadError
from builder.util.files import file_sha256, locked
from builder.util.log import say, warn

TRIES = 3
PAUSE_SECONDS = 1.0  # before the second try; twice as long before the third
CONNECT_SECONDS = 10
READ_SECONDS = 30  # for each next piece of an answer
_CHUNK_BYTES = 1 << 20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_Result = TypeVar("_Result")


class StatusError(DownloadError):
    """A server's answer with an HTTP status that says that there is no such file, or that it failed."""

    def __init__(self, url: str, response: requests.Response) -> None:
        self.status = response.status_code
        super().__init__(
            f"{url}: the server answered {self.status} {response.reason or ''}".rstrip() + ".",
            "Check the address; it may have moved." if self.status in {404, 410} else "",
        )


class WrongDigestError(DownloadError):
    """A whole file that has a different SHA-256 than the pinned one."""


def get(url: str, *, timeout_seconds: float = READ_SECONDS) -> bytes:
    """Return the body of a page.

    Raises:
        DownloadError: There is no answer after three tries; `StatusError` if there is one, of an HTTP error.
    """

    def attempt() -> bytes:
        with _open(url, {}, timeout_seconds) as response:
            return response.content

    return _retried(url, attempt)


def get_json(url: str) -> Any:
    """Return the JSON at an address, as `get` does."""
    body = get(url)
    try:
        return json.loads(body)
    except ValueError as error:
        raise DownloadError(f"{url} answers without JSON: {error}.") from None


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file, unless it is there with that SHA-256 already; it appears whole or not at all.

    With a SHA-256, an interrupted download is resumed from `<name>.part`.

    Raises:
        DownloadError: It can't be downloaded or written; `WrongDigestError` if it is a different file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with locked(path.with_name(".lock"), lambda: say(f"  waiting for another download to {path.parent}")):
            if sha256 is not None and path.is_file() and file_sha256(path) == sha256:
                return
            while True:
                resumed = sha256 is not None and part.exists()
                _retried(url, lambda: _append(url, part, sha256 is not None))
                actual = file_sha256(part)
                if sha256 in {None, actual}:
                    break
                part.unlink()
                if not resumed:
                    raise WrongDigestError(
                        f"{url} has a different SHA-256: expected {sha256}, got {actual}.",
                        "The file at that address is not the one that was pinned.",
                    )
                warn(f"{path.name}: the part from an earlier download was damaged; downloading all of it")
            part.replace(path)
    except OSError as error:
        raise DownloadError(
            f"{path.name} can't be written to {path.parent}: {error.strerror or error}.",
            "Make room there, or put the cache elsewhere with --cache-dir DIR.",
        ) from error


def _append(url: str, part: Path, resume: bool) -> None:
    """Complete a partial file with what the server sends."""
    size_bytes = part.stat().st_size if resume and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes
    if size_bytes:
        headers["Range"] = f"bytes={size_bytes}-"
    try:
        response = _open(url, headers, READ_SECONDS)
    except StatusError as error:
        if error.status == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing; the digest tells whether it is right
        raise
    with response:
        if response.status_code != requests.codes.partial_content:
            size_bytes = 0
        total_bytes = size_bytes + int(response.headers.get("Content-Length", 0))
        next_line_bytes = total_bytes // 10
        with part.open("ab" if size_bytes else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                if 0 < next_line_bytes <= file.tell() and total_bytes > 10 * _CHUNK_BYTES:
                    say(f"  {part.stem}: {100 * file.tell() // total_bytes}% of {total_bytes / 1e6:,.0f} MB")
                    next_line_bytes = file.tell() + total_bytes // 10


def _open(url: str, headers: dict[str, str], timeout_seconds: float) -> requests.Response:
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, timeout_seconds))
    except requests.RequestException:
        raise
    except OSError as error:  # a file that REQUESTS_CA_BUNDLE names and that is not there
        raise DownloadError(f"{url} can't be downloaded: {error}.") from None
    try:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{url} leads to {response.url}, which is not https.")
        if not response.ok:
            raise StatusError(url, response)
    except DownloadError:
        response.close()
        raise
    return response


def _retried(url: str, attempt: Callable[[], _Result]) -> _Result:
    """Return what an attempt returns, after up to three where the failure may pass."""
    for number in range(1, TRIES + 1):
        try:
            return attempt()
        except StatusError as error:
            if error.status not in _TRANSIENT_STATUS or number == TRIES:
                raise
            warn(f"{error.message} Trying again.")
        except requests.exceptions.SSLError as error:
            raise DownloadError(
                f"{url}: no trusted connection: {_cause(error)}.",
                "Behind a proxy with its own certificate, name that in REQUESTS_CA_BUNDLE.",
            ) from None
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            if number == TRIES:
                raise DownloadError(
                    f"{url}: {_cause(error)}; tried {TRIES} times.",
                    "Check the connection (and the proxy, where there is one), then run again.",
                ) from None
            warn(f"{url}: {_cause(error)}; trying again")
        except (requests.RequestException, ValueError) as error:
            raise DownloadError(f"{url} can't be downloaded: {error}.") from None
        time.sleep(PAUSE_SECONDS * number)
    raise AssertionError("the last try returns or raises")


def _cause(error: Exception) -> str:
    """Return the innermost cause in one line: requests and urllib3 wrap errors in errors."""
    cause: BaseException = error
    while isinstance(cause.__context__, Exception):
        cause = cause.__context__
    return " ".join(str(cause).split()) or type(error).__name__
