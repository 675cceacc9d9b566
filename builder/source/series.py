"""Reads a series of patches: `patches/<version>/series` lists them in order.

A patch, `NNNN-name.toml`, adds files of this project, then replaces text by regular expressions, each with
the number of matches that it expects. It starts with what is wrong, how it shows (why), where upstream
discusses it, and the test that fails without the patch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.util import toml
from builder.util.errors import PatchError


@dataclass(frozen=True)
class Addition:
    """A file of the series' folder `files` that goes to the same place in the tree.

    `replaces` is the SHA-256 of the file of upstream's that it may overwrite; empty where there must be none.
    """

    file: str
    replaces: str = ""


@dataclass(frozen=True)
class Replacement:
    """One replacement by regular expression; `count` is how many matches all files together must have."""

    files: tuple[str, ...]
    pattern: str
    replacement: str
    count: int


@dataclass(frozen=True)
class Patch:
    """A patch; `sha256` covers the files that it adds, which are in `folder`."""

    name: str
    sha256: str
    folder: Path
    what: str
    why: str
    upstream: str
    test: str
    add: tuple[Addition, ...] = ()
    replace: tuple[Replacement, ...] = ()


Series = Sequence[Patch]


def load_series(directory: Path) -> Series:
    """Return the patches of a folder, in order.

    Raises:
        PatchError: The series or a patch can't be read; the message names file and key.
    """
    try:
        lines = (directory / "series").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PatchError(f"{directory / 'series'}: {error.strerror}.") from None
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    return tuple(_load(directory / name) for name in names)


def files_of(series: Series) -> set[str]:
    """Return the paths of a series' files in its folder: the list itself, its patches, and what they add."""
    added = {f"files/{addition.file}" for patch in series for addition in patch.add}
    return {"series", *(patch.name for patch in series), *added}


def _load(path: Path) -> Patch:
    folder = path.parent / "files"
    values = toml.load(path, PatchError)
    patch = toml.convert(Patch, values, path.name, PatchError, name=path.name, sha256="", folder=folder)
    digest = hashlib.sha256(path.read_bytes())
    for addition in patch.add:
        if not (folder / addition.file).is_file():
            raise PatchError(f"{path.name}: add: {addition.file} is not in {folder}.")
        digest.update(b"\0" + addition.file.encode() + b"\0" + (folder / addition.file).read_bytes())
    for number, rule in enumerate(patch.replace, 1):
        try:
            re.compile(rule.pattern)
        except re.error as error:
            raise PatchError(f"{path.name}: replace {number}: pattern: {error}.") from None
    return replace(patch, sha256=digest.hexdigest())
