"""Downloads over HTTP, with three tries and a SHA-256 where there is one to compare; unpacks archives."""

from __future__ import annotations

import json
import lzma
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from builder.util.errors import DownloadError
from builder.util.files import beside, file_sha256, locked
from builder.util.log import say, warn

# Older Pythons have no filter for what is unpacked, or one that fails over links.
if TYPE_CHECKING or sys.version_info >= (3, 11, 5):
    import tarfile
else:
    from backports import tarfile

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


def get(url: str) -> bytes:
    """Return the body of a page.

    Raises:
        DownloadError: There is no answer after three tries; `StatusError` if there is one, of an HTTP error.
    """

    def attempt() -> bytes:
        with _open(url, {}) as response:
            return response.content

    return _retried(url, attempt)


def get_json(url: str) -> Any:
    """Return the JSON at an address, as `get` does."""
    try:
        return json.loads(get(url))
    except ValueError as error:
        raise DownloadError(f"{url} answers without JSON: {error}.") from None


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file, unless it is there with that SHA-256 already; it appears whole or not at all.

    With a SHA-256, an interrupted download is resumed from `<name>.part`.

    Raises:
        DownloadError: It can't be downloaded or written, or has a different SHA-256.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with locked(path.with_name(".lock"), lambda: say(f"  waiting for another download to {path.parent}")):
            if sha256 is not None and path.is_file() and file_sha256(path) == sha256:
                return
            say(f"  downloading {path.name}")
            while True:
                resumed = sha256 is not None and part.exists()
                _retried(url, lambda: _append(url, part, resume=sha256 is not None))
                actual = file_sha256(part)
                if sha256 in {None, actual}:
                    break
                part.unlink()
                if not resumed:
                    raise DownloadError(
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


def _append(url: str, part: Path, *, resume: bool) -> None:
    """Complete a partial file with what the server sends."""
    headers = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes
    if resume and part.exists() and part.stat().st_size:
        headers["Range"] = f"bytes={part.stat().st_size}-"
    with _open(url, headers) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing; the digest tells whether it is right
        resumes = response.status_code == requests.codes.partial_content
        with part.open("ab" if resumes else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)


def _open(url: str, headers: dict[str, str]) -> requests.Response:
    response = requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    problem = None
    if url.startswith("https:") and not response.url.startswith("https:"):
        problem = DownloadError(f"{url} leads to {response.url}, which is not https.")
    elif not response.ok and response.status_code != requests.codes.requested_range_not_satisfiable:
        problem = StatusError(url, response)
    if problem:
        response.close()
        raise problem
    return response


def _retried(url: str, attempt: Callable[[], _Result]) -> _Result:
    """Return what an attempt returns, after up to three where the failure may pass."""
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except StatusError as error:
            if error.status not in _TRANSIENT_STATUS or tries == TRIES:
                raise
            warn(f"{error.message} Trying again.")
        except ValueError as error:
            raise DownloadError(f"{url} can't be downloaded: {error}.") from None
        except OSError as error:
            if error.errno is not None:  # of the file; those of requests have no number
                raise
            cause = _innermost(error)
            if tries == TRIES:
                raise DownloadError(
                    f"{url}: {cause}; tried {TRIES} times.",
                    "Check the connection and the proxy, where there is one. REQUESTS_CA_BUNDLE names a file "
                    "with the proxy's own certificate.",
                ) from None
            warn(f"{url}: {cause}; trying again")
        time.sleep(PAUSE_SECONDS * tries)


def _innermost(error: Exception) -> str:
    """Return the innermost cause in one line: requests and urllib3 wrap errors in errors."""
    cause: BaseException = error
    while isinstance(cause.__context__, Exception):
        cause = cause.__context__
    return " ".join(str(cause).split()) or type(error).__name__


def unpack(archive: Path, into: Path) -> str:
    """Unpack a `.tar.*` or `.zip` file without its top folder; what is at `into` is replaced as a whole.

    Returns the commit that `git archive` wrote into a tar file, as forges do; empty without one.

    Raises:
        DownloadError: It is damaged, of another kind, or has not one folder at its top.
    """
    comment = ""
    try:
        with beside(into) as new:
            unpacked = new.with_name("unpacked")
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as members:
                    members.extractall(unpacked)  # noqa: S202 - zipfile leaves no folder by itself
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(unpacked, filter="data")
                    comment = tar.pax_headers.get("comment", "")
            tops = list(unpacked.iterdir())
            if len(tops) != 1 or not tops[0].is_dir():
                raise DownloadError(f"{archive.name} has {len(tops)} entries at its top, not one folder.")
            tops[0].rename(new)
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
        RuntimeError,  # a .zip file that is encrypted
    ) as error:
        reason = str(error).partition(":\n")[0] or type(error).__name__  # without each format's own error
        raise DownloadError(
            f"{archive.name} can't be unpacked: {reason}.",
            "It must be a whole .tar.* or .zip file, and the disk must have room.",
        ) from error
    return comment if re.fullmatch(r"[0-9a-f]{40}", comment) else ""
