"""Goes: use `builder.util.log` or `builder.util.http`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from builder.util.log import public_address, without_secrets

__all__ = ["HIDDEN", "is_plain", "public_address", "without_secrets"]
HIDDEN = "***"
# RFC 3986, without the apostrophe and what begins a query or fragment; and the braces of a template.
_PLAIN = re.compile(r"[\w.~:/\[\]@!$&()*+,;=%{}-]+", re.ASCII)


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
