"""Decides what may be printed of an address: never its user name, password, query or fragment.

These may be secrets. Records, logs, errors and wheels all take what they say of an address from here; the
log does so for every line that it prints.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "***"
# Quotes end an address in a text, but not in its password.
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://(?:[^\s/?#]*@)?[^\s'\"<>`]*", re.IGNORECASE)
_HOST = re.compile(r"([\w.-]*|\[[\w:.%]+\])(:\d*)?")
# How urllib3 writes the path of a request that failed.
_REQUEST = re.compile(r"(with url: [^\s?]*)\?\S*")
# RFC 3986, without the apostrophe and what begins a query or fragment; and the braces of a template.
_PLAIN = re.compile(r"[\w.~:/\[\]@!$&()*+,;=%{}-]+", re.ASCII)


def public_address(address: str) -> str:
    """Return what may be printed of an address: its scheme, host, port and path.

    Of one that is malformed, so that a password may be anywhere in it, only the scheme is left.

    Args:
        address: `https://me:secret@example.org/a.zip?token=1`, which becomes `https://example.org/a.zip`.
    """
    scheme, _, rest = address.partition("://")
    place, *more = re.split(r"[?#]", rest, maxsplit=1)
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None or "@" in "".join(more):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{host}{slash}{path}"


def without_secrets(text: str) -> str:
    """Return a text with every address in it as `public_address` has it."""
    return _REQUEST.sub(r"\1", _ADDRESS.sub(_replaced, text))


def _replaced(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,;:!?)]}")
    return public_address(address) + match[0][len(address) :]


def is_plain(address: str, *, insecure: bool = False) -> bool:
    """Return whether an address may be published: https, without user name, query, fragment or spaces.

    From this machine, http will do.

    Args:
        address: The address.
        insecure: Whether http will do from any machine.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or _PLAIN.fullmatch(address) is None:
        return False
    insecure = insecure or host in {"localhost", "127.0.0.1", "::1"}
    return address.startswith("https://") or (insecure and address.startswith("http://"))
