"""A client of GitHub's REST API, for what releases and the look for newer versions need.

The token goes into one header and nowhere else: no `repr` shows it, it is sent only over https or to this
machine, and only to the API and its host for uploads, and it is removed from every answer and message that
leaves this module.

Waiting and trying again is this module's own, not urllib3's `Retry`: GitHub's rate limits have headers of
their own, and what makes something new is tried again only after a look at what is there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
from requests.auth import AuthBase

from builder.util import limits
from builder.util.addresses import is_plain
from builder.util.answers import TooLargeError, ask, parse_json
from builder.util.errors import UsageError
from builder.util.github.reply import GitHubError, OddAnswerError, TransientError, failure
from builder.util.log import warn

_T = TypeVar("_T")

API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"
TOKEN_VARIABLES = ("GITHUB_TOKEN", "GH_TOKEN")


def token_from(environ: Mapping[str, str]) -> str | None:
    """Return the token from `GITHUB_TOKEN` or `GH_TOKEN`; None where neither is set.

    Raises:
        UsageError: It has spaces or characters that no token has, and that a header can't hold.
    """
    for name in TOKEN_VARIABLES:
        if token := environ.get(name, "").strip():
            if re.fullmatch(r"[!-~]+", token) is None:
                raise UsageError(f"{name} is not a token: it has characters that no token has.")
            return token
    return None


class Api:
    """A session with the API.

    Args:
        url: Its address: `https://api.github.com`, or `https://HOST/api/v3`.
        token: Sent with each request; None for requests without one.
        sleep: How to wait, in seconds.
        attempts: How often to try what may work at the next try.
        longest_wait_seconds: A longer wait is an error.

    Raises:
        UsageError: It is not an address, or the token would be sent over an unencrypted connection.
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
        if not is_plain(self.url, insecure=token is None):
            raise UsageError(
                f"{url} is not the address of an API: a token is sent over https only.",
                "Give the API's https address, such as https://api.github.com.",
            )
        scheme, host = _origin(self.url)
        # What goes to this machine goes through no proxy.
        self._proxies = {"no_proxy": host.rpartition(":")[0]} if scheme == "http" else None
        # api.github.com has uploads.github.com; a server of one's own has both at one host.
        self._allowed = {(scheme, host), (scheme, f"uploads.{host.removeprefix('api.')}")}

    @property
    def has_token(self) -> bool:
        """Whether requests are sent with a token."""
        return self._token is not None

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
        url = f"{self._address(path)}?{urlencode({'per_page': 100})}"
        for _ in range(limits.PAGES):
            response, body = self._retried("GET", url)
            elements = self._values(url, body)
            if not isinstance(elements, list):
                raise OddAnswerError(f"{_place(url)} answers without a list.")
            yield from elements
            url = response.links.get("next", {}).get("url", "")
            if not url:
                return
        raise GitHubError(f"{_place(url)}: the list has more than {limits.PAGES} pages.")

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
        url = self._address(path)
        return self._values(url, self._once("POST", url, json=values)[1])

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
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        # requests sends an empty file in chunks and without its length, which the API refuses.
        data: BinaryIO | bytes = content if size_bytes else b""
        seconds = limits.UPLOAD_SECONDS + _slowest_seconds(size_bytes)
        return self._values(url, self._once("POST", url, data=data, headers=headers, seconds=seconds)[1])

    def sha256_of(self, path: str, size_bytes: int) -> str:
        """Return the SHA-256 of an asset, which is downloaded for it.

        Args:
            path: Its place in the API.
            size_bytes: Its size; much more is an error.
        """

        def once() -> str:
            digest = hashlib.sha256()
            self._once(
                "GET",
                self._address(path),
                headers={"Accept": "application/octet-stream"},
                seconds=limits.ANSWER_SECONDS + _slowest_seconds(size_bytes),
                most_bytes=size_bytes + limits.ANSWER_BYTES,  # the answer may be an error
                into=digest.update,
            )
            return digest.hexdigest()

        return self._again(once)

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

    def _refuse_elsewhere(self, url: str) -> None:
        if _origin(url) not in self._allowed:
            raise GitHubError(
                self.scrub(f"The API leads to {_place(url)}, which is not at {self.url}: no token goes there")
            )

    def _json(self, method: str, url: str, **arguments: Any) -> Any:
        return self._values(url, self._retried(method, url, **arguments)[1])

    def _values(self, url: str, body: bytes) -> Any:
        try:
            return parse_json(self.scrub(body.decode()))
        except ValueError as error:
            raise OddAnswerError(f"{_place(url)} answers, but not with JSON: {error}.") from None

    def _retried(self, method: str, url: str, **arguments: Any) -> tuple[requests.Response, bytes]:
        return self._again(partial(self._once, method, url, **arguments))

    def _again(self, once: Callable[[], _T]) -> _T:
        attempt = 1
        while True:
            try:
                return once()
            except TransientError as error:
                self.wait(attempt, error)
                attempt += 1

    def _once(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **arguments: Any
    ) -> tuple[requests.Response, bytes]:
        """Send one request, and return the answer and its body; any answer but a success is an error.

        The exceptions of requests are not chained to it: they may hold the request with its headers.
        """
        self._refuse_elsewhere(url)
        sent = {"Accept": "application/vnd.github+json", **(headers or {})}
        try:
            response, body = ask(
                self._session,
                method,
                url,
                headers=sent,
                timeout=(limits.REQUEST_SECONDS, limits.UPLOAD_SECONDS),
                allow_redirects=method == "GET",
                proxies=self._proxies,
                **arguments,
            )
        except requests.RequestException as error:
            text = self.scrub(f"{method} {_place(url)}: no answer: {error}").rstrip(".") + "."
            lasting = isinstance(error, (TooLargeError, ValueError))  # ValueError: not an address or proxy
            raise GitHubError(text) if lasting else TransientError(text) from None
        if "into" not in arguments:  # the content of an asset may come from anywhere
            self._refuse_elsewhere(response.url)
        status = response.status_code
        if status < 300:
            return response, body
        what = self.scrub(f"{method} {_place(url)}: {status} {response.reason}")
        raise failure(what, status, response.headers, self.scrub(body.decode(errors="replace")))


class _Bearer(AuthBase):
    """Puts the token into a request; as an `auth`, it also prevents `.netrc` from replacing it."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _origin(url: str) -> tuple[str, str]:
    """Return an address's scheme, and its host with its port; empty where it is malformed."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError:
        return "", ""
    return parts.scheme, "" if "@" in parts.netloc else f"{parts.hostname}:{port}"


def _slowest_seconds(size_bytes: int) -> float:
    return size_bytes / limits.SLOWEST_BYTES * limits.REQUEST_SECONDS


def _place(url: str) -> str:
    """Return an address without its query."""
    return url.partition("?")[0]
