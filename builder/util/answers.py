"""Asks servers, within limits of size and time, and reads the JSON that comes from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import requests
from urllib3.exceptions import HTTPError

from builder.util import limits
from builder.util.deadline import deadline


class TooLargeError(requests.RequestException):
    """An answer that is larger than it may be."""


class EnvironmentUnusableError(requests.RequestException, ValueError):
    """Proxies or certificates that the environment names, and that can't be used."""


def send(session: requests.Session, method: str, url: str, **arguments: Any) -> requests.Response:
    """Send a request, as `requests.Session.request` does.

    Raises:
        requests.RequestException: Also where requests itself raises something else.
    """
    try:
        return session.request(method, url, **arguments)
    except (requests.RequestException, TimeoutError):
        raise
    except (OSError, TypeError) as error:
        raise EnvironmentUnusableError(
            f"the environment's proxy (HTTPS_PROXY, ...) or REQUESTS_CA_BUNDLE can't be used: {error}"
        ) from None


def ask(
    session: requests.Session,
    method: str,
    url: str,
    *,
    most_bytes: int = limits.ANSWER_BYTES,
    seconds: float = limits.ANSWER_SECONDS,
    into: Callable[[bytes], object] | None = None,
    **arguments: Any,
) -> tuple[requests.Response, bytes]:
    """Send a request; return the answer's head and its whole body.

    Args:
        session: Sends it.
        method: `GET`, `POST`, ...
        url: Its address. From https it may lead only to https.
        most_bytes: The largest body to take.
        seconds: How long all of it may take.
        into: Takes the body in pieces, instead of returning it.
        arguments: Others of `requests.Session.request`.

    Raises:
        requests.RequestException: There is no answer, or none within the limits.
    """
    body = bytearray()
    size_bytes = 0
    take = into or body.extend
    try:
        with deadline(seconds), send(session, method, url, stream=True, **arguments) as response:
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise requests.exceptions.InvalidURL(f"it leads to {response.url}, which is not https")
            for chunk in response.iter_content(limits.CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > most_bytes:
                    raise TooLargeError(f"it has more than {most_bytes:,} bytes")
                take(chunk)
    except requests.RequestException:
        raise
    except TimeoutError as error:
        raise requests.Timeout(error) from None
    except (HTTPError, ValueError) as error:  # ValueError: an address, here or in an answer, that is none
        raise requests.exceptions.InvalidURL(error) from None
    return response, bytes(body)


def parse_json(data: bytes | str) -> Any:
    """Return what JSON says that may be made to do harm.

    Raises:
        ValueError: It is not JSON, nested too deeply, or has text or numbers that can't be written again.
    """
    try:
        values = json.loads(data, parse_constant=_refuse)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return values


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises:
        ValueError: As `parse_json`; or it is not a plain file, or a larger one than an answer may be.
        OSError: It can't be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(limits.ANSWER_BYTES + 1)
    if len(data) > limits.ANSWER_BYTES:
        raise ValueError(f"it has more than {limits.ANSWER_BYTES:,} bytes")
    return parse_json(data)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
