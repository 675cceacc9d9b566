"""What GitHub's answers mean: failures, waits, and objects of the expected form."""

from __future__ import annotations

import time
from collections.abc import Mapping

import requests

from builder.util.answers import parse_json
from builder.util.errors import ReleaseError
from builder.util.toml import Table

_SHOWN_CHARACTERS = 500


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


class OddAnswerError(GitHubError):
    """An answer of another form than the API's."""

    def __init__(self, message: str, _remedy: str = "") -> None:
        super().__init__(message, "Check that --api-url is the address of GitHub's API, or try again later.")


def checked(what: str, values: object) -> Table:
    """Return an object of an answer, to be read key by key.

    Args:
        what: What to call it in errors.
        values: The object.

    Raises:
        OddAnswerError: It is something else.
    """
    if not isinstance(values, dict):
        raise OddAnswerError(f"The API's answer is not {what}.")
    return Table(f"The API's answer, {what}", values, OddAnswerError)


def wait_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Return how long an answer asks to wait, from `Retry-After` or GitHub's rate-limit headers.

    Args:
        headers: The answer's headers.
        now: The time in seconds since 1970.
    """
    after = headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after)
    reset = headers.get("X-RateLimit-Reset", "")
    if headers.get("X-RateLimit-Remaining") == "0" and reset.isdecimal():
        return max(0.0, float(reset) - now)
    return None


def is_transient(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a status is worth another try: a server's error, or a rate limit (also with 403)."""
    limited = "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"
    return status >= 500 or status == 429 or (status == 403 and limited)


def failure(what: str, status: int, headers: Mapping[str, str], body: str) -> GitHubError:
    """Return the error for an answer that is not a success.

    Args:
        what: The request, the status and its reason phrase, without the token.
        status: The HTTP status.
        headers: The answer's headers.
        body: The answer's body, without the token.
    """
    text = what[:_SHOWN_CHARACTERS] + _message(body)
    if "Location" in headers and 300 <= status < 400:
        return GitHubError(f"{text}: it has moved.", "Give the repository's new name.", status)
    if is_transient(status, headers):
        return TransientError(f"{text}.", status, wait_seconds(headers, time.time()))
    return GitHubError(f"{text}.", _remedy(status), status)


def _message(body: str) -> str:
    """Return what the API says about an error: its message, and the errors under it."""
    try:
        values = parse_json(body)
        message = str(values.get("message", ""))
        details = [
            str(item.get("message") or item.get("code") or "") if isinstance(item, dict) else str(item)
            for item in values.get("errors", [])
        ]
    except (ValueError, AttributeError, TypeError):
        return ""
    text = "; ".join(part for part in [message, *details] if part)
    return f": {text[:_SHOWN_CHARACTERS].rstrip('.')}" if text else ""


def _remedy(status: int) -> str:
    if status == requests.codes.unauthorized:
        return "The token is not valid, or not any more: set another one in GITHUB_TOKEN."
    if status in (requests.codes.forbidden, requests.codes.not_found):
        return "Check the repository's name, and that the token has write access to its contents."
    return ""
