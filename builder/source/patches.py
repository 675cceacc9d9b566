"""Applies a series of patches to the scratch copy of upstream's tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.source.series import Addition, Patch, Series
from builder.util.errors import PatchError
from builder.util.files import file_sha256

_REMEDY = "Build upstream's release that this series was written for."


@dataclass(frozen=True)
class Applied:
    """A patch that was applied, for the build's record."""

    name: str
    sha256: str
    summary: str


def apply_series(series: Series, tree: Path) -> list[Applied]:
    """Apply every patch in order; returns what was applied, in order.

    Raises:
        PatchError: A patch does not apply; the message names patch, file, and replacement.
    """
    return [Applied(patch.name, patch.sha256, _apply(patch, tree)) for patch in series]


def _apply(patch: Patch, tree: Path) -> str:
    """Apply a patch; return how many files and places of them it changed."""
    for addition in patch.add:
        _add(patch, addition, tree)
    total, touched = 0, set()
    for number, rule in enumerate(patch.replace, 1):
        where = f"{patch.name}: replace {number} ({rule.pattern!r})"
        count = 0
        for path in _matching(tree, rule.files, where):
            # Bytes, so that line ends stay as they are.
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            text, matches = re.subn(rule.pattern, rule.replacement, text, flags=re.MULTILINE)
            if matches:
                path.write_bytes(text.encode("utf-8", "surrogateescape"))
                touched.add(path)
            count += matches
        if count != rule.count:
            raise PatchError(
                f"{where} matches {count} times in {', '.join(rule.files)}, not {rule.count}.", _REMEDY
            )
        total += count
    parts = []
    if patch.add:
        parts.append(f"{_count(len(patch.add), 'file')} added")
    if total:
        parts.append(f"{_count(total, 'replacement')} in {_count(len(touched), 'file')}")
    return ", ".join(parts)


def _add(patch: Patch, addition: Addition, tree: Path) -> None:
    path = tree / addition.file
    upstream_sha256 = file_sha256(path) if path.exists() else ""
    if upstream_sha256 != addition.replaces:
        if not upstream_sha256:
            state = "not found, so not replaced"
        elif not addition.replaces:
            state = "already exists"
        else:
            state = "is not the file that this was written to replace"
        raise PatchError(f"{patch.name}: {addition.file} {state}.", _REMEDY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((patch.folder / addition.file).read_bytes())


def _matching(tree: Path, patterns: tuple[str, ...], where: str) -> list[Path]:
    paths = []
    for pattern in patterns:
        found = sorted(path for path in tree.glob(pattern) if path.is_file())
        if not found:
            raise PatchError(f"{where} finds no file {pattern}.", _REMEDY)
        paths += found
    return paths


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
