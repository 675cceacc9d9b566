"""Web pages and JSON files, asked for at their address or at a mirror."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from builder.util.answers import ask, parse_json
from builder.util.limits import REQUEST_SECONDS


class NotAskedError(Exception):
    """A source that did not answer, or gave an answer of the wrong form."""


class Web:
    """A session that asks for pages.

    Args:
        mirrors: Beginnings of addresses, and what to ask for instead.
    """

    def __init__(self, mirrors: Mapping[str, str]) -> None:
        self._mirrors = mirrors
        self._session = requests.Session()
        adapter = HTTPAdapter(
            # What was too slow once is not tried again.
            max_retries=Retry(total=2, read=0, backoff_factor=0.5, status_forcelist=(502, 503, 504))
        )
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def links(self, url: str) -> list[str]:
        """Return the file names that an HTML page links to.

        Raises:
            NotAskedError: It can't be obtained.
        """
        return linked_names(self._get(url).decode(errors="replace"))

    def json(self, url: str) -> dict[str, Any]:
        """Return a JSON object.

        Raises:
            NotAskedError: It can't be obtained, or is something else.
        """
        try:
            values = parse_json(self._get(url))
        except ValueError as error:
            raise NotAskedError(f"{url} answers without JSON: {error}.") from None
        if not isinstance(values, dict):
            raise NotAskedError(f"{url} answers without a JSON object.")
        return values

    def _get(self, url: str) -> bytes:
        asked = url
        for start, instead in self._mirrors.items():
            if url == start or url.startswith(f"{start}/"):
                asked = instead + url[len(start) :]
        try:
            response, body = ask(
                self._session, "GET", asked, timeout=REQUEST_SECONDS, headers={"Accept": "*/*"}
            )
            response.raise_for_status()
        except requests.RequestException as error:
            raise NotAskedError(f"{asked}: {error}") from None
        return body


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self.names.append(unquote(urlsplit(href).path.rpartition("/")[2]))


def linked_names(text: str) -> list[str]:
    """Return the file names that an HTML page links to, in its order (a simple index is one, PEP 503)."""
    parser = _Links()
    parser.feed(text)
    return parser.names
