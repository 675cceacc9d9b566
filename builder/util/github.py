"""A client of GitHub's REST API, for what releases and the look for newer versions need.

The token goes into one header and nowhere else: no `repr` shows it, it is sent only over https or to this
machine, and it is removed from every message that leaves this module.

Waiting and trying again is this module's own, not urllib3's `Retry`: GitHub's rate limits have headers of
their own, and what makes something new is tried again only after a look at what is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

import requests
from requests.auth import AuthBase

from builder.util import limits
from builder.util.errors import ReleaseError, UsageError
from builder.util.log import warn

API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"
TOKEN_VARIABLES = ("GITHUB_TOKEN", "GH_TOKEN")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GitHubError(ReleaseError):
    """An answer that can't be used, or none.

    Attributes:
        status: The HTTP status; None where nothing answered.
    """

    def __init__(self, message: str, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message, remedy)
        self.status = status


class TransientError(GitHubError):
    """A failure that may not happen again at the next try.

    Attributes:
        wait_seconds: How long the server asks to wait; None where it does not say.
    """

    def __init__(self, message: str, status: int | None = None, wait_seconds: float | None = None) -> None:
        super().__init__(message, "Run the same command again: it continues where it stopped.", status)
        self.wait_seconds = wait_seconds


def token_from(environ: Mapping[str, str]) -> str | None:
    """Return the token from `GITHUB_TOKEN` or `GH_TOKEN`; None where neither is set."""
    for name in TOKEN_VARIABLES:
        if token := environ.get(name, "").strip():
            return token
    return None


def wait_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Return how long an answer asks to wait, from `Retry-After` or GitHub's rate-limit headers.

    Args:
        headers: The answer's headers.
        now: The time in seconds since 1970.
    """
    after = headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    reset = headers.get("X-RateLimit-Reset", "")
    if headers.get("X-RateLimit-Remaining") == "0" and reset.isdigit():
        return max(0.0, float(reset) - now)
    return None


def is_transient(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a status is worth another try: a server's error, or a rate limit (also with 403)."""
    limited = "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"
    return status >= 500 or status == 429 or (status == 403 and limited)


class Api:
    """A session with the API.

    Args:
        url: Its address: `https://api.github.com`, or `https://HOST/api/v3`.
        token: Sent with each request; None for requests without one.
        sleep: How to wait, in seconds.
        attempts: How often to try what may work at the next try.
        longest_wait_seconds: A longer wait is an error.

    Raises:
        UsageError: The token would be sent over an unencrypted connection.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        attempts: int = limits.ATTEMPTS,
        longest_wait_seconds: float = limits.LONGEST_WAIT_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self._longest_wait_seconds = longest_wait_seconds
        self._token = token
        self._sleep = sleep
        self._session = requests.Session()
        self._session.headers.update(
            {"X-GitHub-Api-Version": API_VERSION, "User-Agent": "sageattention-wheels"}
        )
        self._session.auth = _Bearer(token)
        self._refuse_open(self.url)

    def get(self, path: str) -> Any:
        """Return one resource, as JSON values."""
        return self._json("GET", self._address(path))

    def find(self, path: str) -> Any | None:
        """Return one resource; None if it does not exist."""
        try:
            return self.get(path)
        except GitHubError as error:
            if error.status == requests.codes.not_found:
                return None
            raise

    def list(self, path: str) -> Iterator[Any]:
        """Yield every element of a list, page after page."""
        url: str | None = f"{self._address(path)}?{urlencode({'per_page': 100})}"
        while url is not None:
            response = self._retried("GET", url)
            yield from self._values(response)
            following = response.links.get("next", {}).get("url")
            if following is not None and urlsplit(following).netloc != urlsplit(self.url).netloc:
                raise GitHubError(f"The next page is at another host, which is not allowed: {following}.")
            url = following

    def patch(self, path: str, values: Mapping[str, Any]) -> Any:
        """Change a resource and return it; doing so twice does no harm."""
        return self._json("PATCH", self._address(path), json=values)

    def delete(self, path: str) -> None:
        """Remove a resource; it may be gone already."""
        try:
            self._retried("DELETE", self._address(path))
        except GitHubError as error:
            if error.status != requests.codes.not_found:
                raise

    def post_once(self, path: str, values: Mapping[str, Any]) -> Any:
        """Make a resource in one try, and return it: after a failure nobody knows whether it was made.

        Raises:
            TransientError: The caller looks at what is there, waits (`wait`), and tries again.
        """
        return self._values(self._once("POST", self._address(path), json=values))

    def upload_once(self, url: str, name: str, content: BinaryIO, size_bytes: int, content_type: str) -> Any:
        """Send a release's asset in one try, and return it.

        Args:
            url: The release's `upload_url`, with or without its template.
            name: The asset's name.
            content: Read from its start, not into memory.
            size_bytes: Its size.
            content_type: Its media type.

        Raises:
            TransientError: As for `post_once`; part of an asset may be there.
        """
        url = f"{url.partition('{')[0]}?{urlencode({'name': name})}"
        self._refuse_open(url)
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        # requests sends an empty file in chunks and without its length, which the API refuses.
        data: BinaryIO | bytes = content if size_bytes else b""
        return self._values(self._once("POST", url, data=data, headers=headers))

    def sha256_of(self, path: str) -> str:
        """Return the SHA-256 of an asset, which is downloaded for it."""
        digest = hashlib.sha256()
        response = self._retried(
            "GET", self._address(path), headers={"Accept": "application/octet-stream"}, stream=True
        )
        try:
            with response:
                for chunk in response.iter_content(limits.CHUNK_BYTES):
                    digest.update(chunk)
        except requests.RequestException as error:
            raise TransientError(self.scrub(f"{path}: the connection broke: {error}")) from None
        return digest.hexdigest()

    def wait(self, attempt: int, error: TransientError) -> None:
        """Wait before another try, or give up.

        Args:
            attempt: How many tries there were.
            error: How the last one failed.

        Raises:
            TransientError: That error: there were enough tries, or the wait would be too long.
        """
        seconds = error.wait_seconds
        if seconds is None:
            seconds = min(limits.LONGEST_BACKOFF_SECONDS, 2.0 ** (attempt - 1))
        if attempt >= self.attempts or seconds > self._longest_wait_seconds:
            raise error
        warn(f"{error.message} Trying again in {seconds:.0f} s.")
        self._sleep(seconds)

    def scrub(self, text: str) -> str:
        """Return a text without the token."""
        return text.replace(self._token, "***") if self._token else text

    def _address(self, path: str) -> str:
        return f"{self.url}/{path.lstrip('/')}"

    def _refuse_open(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            return
        if self._token is None and parts.scheme == "http":
            return
        raise UsageError(f"{url}: a token is sent over https only.", "Give the API's https address.")

    def _json(self, method: str, url: str, **arguments: Any) -> Any:
        return self._values(self._retried(method, url, **arguments))

    def _values(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise GitHubError(
                f"{_place(response.url)} answers {response.status_code}, but not with JSON."
            ) from None

    def _retried(self, method: str, url: str, **arguments: Any) -> requests.Response:
        attempt = 1
        while True:
            try:
                return self._once(method, url, **arguments)
            except TransientError as error:
                self.wait(attempt, error)
                attempt += 1

    def _once(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **arguments: Any
    ) -> requests.Response:
        """Send one request; any answer but a success is an error.

        The exceptions of requests are not chained to it: they may hold the request with its headers.
        """
        sent = {"Accept": "application/vnd.github+json", **(headers or {})}
        try:
            response = self._session.request(
                method,
                url,
                headers=sent,
                timeout=(limits.REQUEST_SECONDS, limits.UPLOAD_SECONDS),
                allow_redirects=method == "GET",
                **arguments,
            )
        except requests.RequestException as error:
            text = self.scrub(f"{method} {_place(url)}: no answer: {error}")
            raise TransientError(f"{text.rstrip('.')}.") from None
        if response.status_code < 300:
            return response
        said = self.scrub(_message(response))
        text = f"{method} {_place(url)}: {response.status_code} {response.reason}{said}"
        if response.is_redirect:
            raise GitHubError(
                f"{text}: it has moved.", "Give the repository's new name.", response.status_code
            )
        if is_transient(response.status_code, response.headers):
            raise TransientError(
                f"{text}.", response.status_code, wait_seconds(response.headers, time.time())
            )
        raise GitHubError(f"{text}.", _remedy(response.status_code), response.status_code)


class _Bearer(AuthBase):
    """Puts the token into a request; as an `auth`, it also prevents `.netrc` from replacing it."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _place(url: str) -> str:
    """Return an address without its query."""
    return url.partition("?")[0]


def _message(response: requests.Response) -> str:
    """Return what the API says about an error: its message, and the errors under it."""
    try:
        values = response.json()
        message = str(values.get("message", ""))
        details = [
            str(item.get("message") or item.get("code") or "") if isinstance(item, dict) else str(item)
            for item in values.get("errors", [])
        ]
    except (requests.JSONDecodeError, AttributeError, TypeError):
        return ""
    text = "; ".join(part for part in [message, *details] if part)
    return f": {text[:500].rstrip('.')}" if text else ""


def _remedy(status: int) -> str:
    if status == requests.codes.unauthorized:
        return "The token is not valid, or not any more: set another one in GITHUB_TOKEN."
    if status in (requests.codes.forbidden, requests.codes.not_found):
        return "Check the repository's name, and that the token has write access to its contents."
    return ""
