"""Reads a series of patches and applies it to the scratch copy of upstream's tree.

`patches/<version>/series` lists the patches in order. A patch, `NNNN-name.toml`, adds files of this project,
then replaces text by regular expressions, each with the number of matches that it expects. It says what
is wrong, how it shows (why), where upstream discusses it, and the test that fails without the patch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.util import toml
from builder.util.errors import PatchError
from builder.util.files import file_sha256
from builder.util.log import counted

_REMEDY = "Build upstream's release that this series was written for."


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
    """A patch; the files that it adds are in `folder`."""

    name: str
    folder: Path
    what: str
    why: str
    upstream: str
    test: str
    add: tuple[Addition, ...] = ()
    replace: tuple[Replacement, ...] = ()


@dataclass(frozen=True)
class Applied:
    """A patch that was applied, and in a few words what it changed."""

    name: str
    summary: str


Series = Sequence[Patch]


def load_series(directory: Path) -> Series:
    """Return the patches of a folder, in order."""
    patches = []
    for line in (directory / "series").read_text(encoding="utf-8").splitlines():
        if name := line.partition("#")[0].strip():
            values = toml.load(directory / name, PatchError)
            folder = directory / "files"
            patches.append(toml.convert(Patch, values, name, PatchError, name=name, folder=folder))
    return patches


def files_of(series: Series) -> set[str]:
    """Return the paths of a series' files in its folder: the list itself, its patches, and what they add."""
    added = {f"files/{addition.file}" for patch in series for addition in patch.add}
    return {"series", *(patch.name for patch in series), *added}


def apply_series(series: Series, tree: Path) -> list[Applied]:
    """Apply every patch in order, and return what each changed."""
    return [Applied(patch.name, _apply(patch, tree)) for patch in series]


def _apply(patch: Patch, tree: Path) -> str:
    """Apply one patch, and return in a few words what it changed."""
    for addition in patch.add:
        path = tree / addition.file
        if (file_sha256(path) if path.exists() else "") != addition.replaces:
            expected = "the file that this was written to replace" if addition.replaces else "absent"
            raise PatchError(f"{patch.name}: {addition.file} is not {expected}.", _REMEDY)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((patch.folder / addition.file).read_bytes())
    touched: set[Path] = set()
    for number, rule in enumerate(patch.replace, 1):
        touched |= _replace(rule, tree, f"{patch.name}: replace {number} ({rule.pattern!r})")
    total = sum(rule.count for rule in patch.replace)
    summary = [f"{counted(len(patch.add), 'file')} added"] if patch.add else []
    if total:
        summary.append(f"{counted(total, 'replacement')} in {counted(len(touched), 'file')}")
    return ", ".join(summary)


def _replace(rule: Replacement, tree: Path, where: str) -> set[Path]:
    """Make one replacement, and return the files that it changed."""
    total, touched = 0, set()
    for path in sorted({path for pattern in rule.files for path in tree.glob(pattern)}):
        # Bytes, so that line ends stay as they are.
        pattern, replacement = rule.pattern.encode(), rule.replacement.encode()
        content, count = re.subn(pattern, replacement, path.read_bytes(), flags=re.MULTILINE)
        if count:
            path.write_bytes(content)
            touched.add(path)
        total += count
    if total != rule.count:
        raise PatchError(
            f"{where} matches {total} times in {', '.join(rule.files)}, not {rule.count}.", _REMEDY
        )
    return touched
