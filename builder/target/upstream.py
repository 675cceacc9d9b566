"""The pinned release of SageAttention that a target builds, as `patches/<tag>/upstream.toml` describes it.

The file lies beside the patches because it changes with them: a patch series is for one release.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from builder.target.architectures import Architecture
from builder.util.errors import ArchitectureError, TargetError
from builder.util.paths import ROOT
from builder.util.toml import tomllib

PATCHES_DIR = ROOT / "patches"
FILE_NAME = "upstream.toml"
DOWNLOAD_ADDRESS = "an https address without user name, query or fragment"

_PATTERNS = {
    "version": (r"\d+(\.\d+)+((a|b|rc)\d+)?", "a version such as 2.2.0"),
    "tag": (r"[A-Za-z0-9][\w.+-]*", "a git tag such as v2.2.0"),
    "commit": (r"[0-9a-f]{40}", "a git commit, 40 hexadecimal digits"),
    "sha256": (r"[0-9a-f]{64}", "the archive's SHA-256, 64 lower-case hexadecimal digits"),
    "license": (r"[A-Za-z0-9.+() -]+", "an SPDX licence expression such as Apache-2.0"),
}


@dataclass(frozen=True)
class Release:
    """One upstream release.

    Attributes:
        version: As upstream's `setup.py` has it.
        tag: The git tag.
        commit: The commit that the tag names.
        url: Address of the source archive.
        sha256: The archive's digest.
        source_date_epoch: The commit's time in seconds since 1970, for reproducible archives.
        license: SPDX expression.
        architectures: What the source, with the patches beside this file, compiles for.
    """

    version: str
    tag: str
    commit: str
    url: str
    sha256: str
    source_date_epoch: int
    license: str
    architectures: tuple[Architecture, ...]


def load_release(patches_dir: Path) -> Release:
    """Read `upstream.toml` of one release's folder of patches.

    Args:
        patches_dir: The release's own folder, such as `patches/v2.2.0`.

    Raises:
        TargetError: The file is missing or wrong; names file and key.
    """
    path = patches_dir / FILE_NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TargetError(
            f"{path}: not found, so {patches_dir.name} is no release that can be built.",
            f"Releases with patches: {', '.join(known_releases(patches_dir.parent)) or 'none'}.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path}: not TOML: {error}") from None

    known = {*_PATTERNS, "url", "source_date_epoch", "architectures"}
    for key in table:
        if key not in known:
            raise TargetError(f"{path}: {key}: unknown key.", f"Known keys: {', '.join(sorted(known))}.")
    for key in sorted(known):
        if key not in table:
            raise TargetError(f"{path}: {key}: missing.")
    for key, (pattern, expected) in _PATTERNS.items():
        if not isinstance(table[key], str) or re.fullmatch(pattern, table[key]) is None:
            raise TargetError(f"{path}: {key}: {table[key]!r} is not {expected}.")
    url = table["url"]
    if not isinstance(url, str) or not is_download_address(url):
        raise TargetError(f"{path}: url: {url!r} is not {DOWNLOAD_ADDRESS}.")
    epoch = table["source_date_epoch"]
    # Zip archives, and so wheels, can't hold a time before 1980.
    if type(epoch) is not int or epoch < 315532800:
        raise TargetError(
            f"{path}: source_date_epoch: {epoch!r} is not the commit's time in seconds since 1970."
        )
    return Release(
        **{key: table[key] for key in _PATTERNS},
        url=url,
        source_date_epoch=epoch,
        architectures=_read_architectures(path, table["architectures"]),
    )


def is_download_address(text: str) -> bool:
    """Whether a pinned thing may be downloaded from there: by https, or by http from this machine.

    User names, queries and fragments are refused: they don't belong into a file that is published.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        return False
    if re.search(r"\s", text) or "@" in parts.netloc or parts.query or parts.fragment:
        return False
    return (parts.scheme == "https" and host != "") or (
        parts.scheme == "http" and host in {"localhost", "127.0.0.1", "::1"}
    )


def known_releases(patches_root: Path) -> list[str]:
    """Names of the folders that hold an `upstream.toml`, sorted."""
    return sorted(path.parent.name for path in patches_root.glob(f"*/{FILE_NAME}"))


def _read_architectures(path: Path, value: object) -> tuple[Architecture, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise TargetError(f"{path}: architectures: expected a list such as ['8.0', '9.0a'].")
    try:
        return tuple(sorted({Architecture.parse(item) for item in value}))
    except ArchitectureError as error:
        raise TargetError(f"{path}: architectures: {error.message}", error.remedy) from None
