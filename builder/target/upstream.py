"""The pinned release of SageAttention that a target builds, as `patches/<tag>/upstream.toml` describes it.

The file is beside the patches because it changes with them: a patch series is for one release. Beside it,
`upstream.sha256` lists each file of the release that a build reads, as `sha256sum` prints it. A source whose
files are these is the release, wherever it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.target.architectures import Architecture
from builder.util import toml
from builder.util.errors import ArchitectureError, TargetError
from builder.util.paths import ROOT

PATCHES_DIR = ROOT / "patches"
FILE_NAME = "upstream.toml"
SUMS_NAME = "upstream.sha256"
BY_CONTENT = "{sha256}"  # in the address of a mirror that has each file at an address of its own

_FIRST_ZIP_TIME = 315532800  # 1980: zip archives, and so wheels, can't hold an earlier time
_SUM = re.compile(r"[0-9a-f]{64}  \S[^\\]*")
_KEYS = ("version", "tag", "commit", "url", "sha256", "source_date_epoch", "license", "architectures")


@dataclass(frozen=True)
class Release:
    """One upstream release.

    Attributes:
        version: As upstream's `setup.py` has it.
        tag: The git tag.
        commit: The commit that the tag names.
        url: Address of the source archive.
        mirrors: Further addresses of it, or with `{sha256}` in it, of each of its files.
        sha256: The archive's digest.
        files: SHA-256 of each file that a build reads, by its path.
        source_date_epoch: The commit's time in seconds since 1970, for reproducible archives.
        license: SPDX expression.
        architectures: What the source, with the patches beside this file, compiles for.
    """

    version: str
    tag: str
    commit: str
    url: str
    mirrors: tuple[str, ...]
    sha256: str
    files: Mapping[str, str]
    source_date_epoch: int
    license: str
    architectures: tuple[Architecture, ...]


def load_release(patches_dir: Path) -> Release:
    """Return the release that a folder of patches is for.

    Args:
        patches_dir: The release's own folder, such as `patches/v2.2.0`.

    Raises:
        TargetError: `upstream.toml` or `upstream.sha256` is missing or wrong; the message says where.
    """
    path = patches_dir / FILE_NAME
    if not path.is_file():
        known = sorted(found.parent.name for found in patches_dir.parent.glob(f"*/{FILE_NAME}"))
        raise TargetError(
            f"{path}: not found, so {patches_dir.name} can't be built.",
            f"Releases that can be: {', '.join(known) or 'none'}.",
        )
    table = toml.read(path, TargetError)
    table.keys(_KEYS, ("mirrors",))
    mirrors = table.tables("mirrors")
    for mirror in mirrors:
        mirror.keys(("url",))
    return Release(
        version=table.text("version", r"\d+(\.\d+)+((a|b|rc)\d+)?", "a version such as 2.2.0"),
        tag=table.text("tag", r"[A-Za-z0-9][\w.+-]{0,99}", "a git tag such as v2.2.0"),
        commit=table.text("commit", r"[0-9a-f]{40}", "a git commit of 40 hexadecimal digits"),
        url=table.address("url"),
        mirrors=tuple(mirror.address("url") for mirror in mirrors),
        sha256=table.text("sha256", r"[0-9a-f]{64}", "a SHA-256 of 64 lower-case hexadecimal digits"),
        source_date_epoch=table.number(
            "source_date_epoch", _FIRST_ZIP_TIME, "the commit's time in seconds since 1970"
        ),
        license=table.text("license", r"[A-Za-z0-9.+() -]+", "an SPDX expression such as Apache-2.0"),
        architectures=read_architectures(table),
        files=read_sums(patches_dir / SUMS_NAME),
    )


def read_sums(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that `sha256sum` listed, by its path.

    Raises:
        TargetError: The list can't be read, or a line is not one of `sha256sum`'s.
    """
    remedy = "docs/patches.md says how to make it."
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path}: can't be read: {error}.", remedy) from None
    files: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        sha256, name = line[:64], line[66:]
        parts = PurePosixPath(name).parts
        plain = "/".join(parts) == name and ".." not in parts and name not in files
        if not plain or _SUM.fullmatch(line) is None:
            raise TargetError(f"{path}: line {number}: {line[:200]!r} is not a new file's SHA-256.", remedy)
        files[name] = sha256
    if not files:
        raise TargetError(f"{path}: no file is listed.", remedy)
    return files


def read_architectures(table: toml.Table) -> tuple[Architecture, ...]:
    """Return the architectures that a table lists under that key, sorted.

    Raises:
        TargetError: One can't be read, or is there twice.
    """
    found: set[Architecture] = set()
    for text in table.texts("architectures", '["8.9", "9.0a"]'):
        try:
            architecture = Architecture.parse(text)
        except ArchitectureError as error:
            raise table.fail("architectures", error.message.rstrip("."), error.remedy) from None
        table.check("architectures", architecture not in found, f"{architecture} is listed twice")
        found.add(architecture)
    return tuple(sorted(found))
