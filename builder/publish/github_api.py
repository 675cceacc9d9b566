"""GitHub's API by PyGithub: with timeouts, retries of what does no harm twice, and this project's errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from github import Auth, BadAttributeException, Github, GithubException, GithubRetry
from github.Requester import HTTPRequestsConnectionClass, HTTPSRequestsConnectionClass, Requester

from builder.util.arguments import Parser, published_address
from builder.util.errors import ReleaseError, UsageError

API_URL = "https://api.github.com"
_TIMEOUT_SECONDS = 120  # to connect, to send the next piece, and for the answer to an upload
# What PyGithub raises over an answer that is not what it expects.
_UNEXPECTED = (BadAttributeException, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


class TransientError(ReleaseError):
    """A failure of the connection or the server, which a retry may get past."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Run the same command again: it continues where it stopped.")


class _HttpsConnection(HTTPSRequestsConnectionClass):
    """PyGithub gives no timeout to its connections to other hosts, and assets go to `uploads.github.com`."""

    def __init__(self, host: str, port: int | None = None, **named: Any) -> None:
        super().__init__(host, port, **{"timeout": _TIMEOUT_SECONDS, **named})


def token_from_environment() -> str | None:
    """Return the token from `GITHUB_TOKEN` or `GH_TOKEN`; None where neither is set."""
    return (os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or "").strip() or None


def add_api_url(parser: Parser) -> None:
    """Add `--api-url` to a command's arguments."""
    default = os.environ.get("GITHUB_API_URL") or API_URL
    parser.add_argument("--api-url", type=published_address, default=default, metavar="URL")


def connect(url: str, token: str | None, *, longest_wait_seconds: float = 900) -> Github:
    """Return a session with the API. It retries no POST, which would make a second release or asset.

    A longer wait for the end of a rate limit is an error, and so is a token over an unencrypted connection.
    """
    parts = urlsplit(url)
    if token and parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UsageError(f"{url}: a token is sent over https only.", f"Give an address such as {API_URL}.")
    Requester.injectConnectionClasses(HTTPRequestsConnectionClass, _HttpsConnection)
    methods, wait = {"GET", "PATCH", "DELETE"}, longest_wait_seconds
    retry = GithubRetry(total=4, backoff_factor=1, max_rate_limit_wait=wait, allowed_methods=methods)
    return Github(
        auth=Auth.Token(token) if token else None,
        base_url=url.rstrip("/"),
        timeout=_TIMEOUT_SECONDS,
        per_page=100,
        retry=retry,
        api_version="2022-11-28",
        lazy=True,
    )


@contextmanager
def github_errors() -> Iterator[None]:
    """Raise what PyGithub raises as a ReleaseError, or as a TransientError where a retry may help."""
    try:
        yield
    except GithubException as error:
        message = f"GitHub's API: {error}."
        if error.status >= requests.codes.internal_server_error or "rate limit" in message:
            raise TransientError(message) from None
        remedy = "Check the repository's name, and that the token may write to its contents."
        if error.status == requests.codes.unauthorized:
            remedy = "The token is not valid, or not any more: set another one in GITHUB_TOKEN."
        raise ReleaseError(message, remedy) from None
    except requests.RequestException as error:
        raise TransientError(f"GitHub's API does not answer: {error}.") from None
    except (*_UNEXPECTED, ValueError) as error:
        remedy = "Check that --api-url is the address of GitHub's API, or try again later."
        raise ReleaseError(f"GitHub's API gives an answer of another form: {error!r}.", remedy) from None
