"""Applies a series of patches to the scratch copy of upstream's tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.source.series import Addition, Patch, Replacement, Series
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
    """Apply every patch in order, and return what each changed.

    Raises:
        PatchError: A patch does not apply; the message names patch, file, and replacement.
    """
    return [Applied(patch.name, patch.sha256, _apply(patch, tree)) for patch in series]


def _apply(patch: Patch, tree: Path) -> str:
    for addition in patch.add:
        _add(patch, addition, tree)
    touched: set[Path] = set()
    for number, rule in enumerate(patch.replace, 1):
        touched |= _replace(rule, tree, f"{patch.name}: replace {number} ({rule.pattern!r})")
    total = sum(rule.count for rule in patch.replace)
    summary = [f"{_count(len(patch.add), 'file')} added"] if patch.add else []
    if total:
        summary.append(f"{_count(total, 'replacement')} in {_count(len(touched), 'file')}")
    return ", ".join(summary)


def _add(patch: Patch, addition: Addition, tree: Path) -> None:
    path = tree / addition.file
    existing_sha256 = file_sha256(path) if path.exists() else ""
    if existing_sha256 != addition.replaces:
        state = "is not the file that this was written to replace"
        if not existing_sha256:
            state = "not found, so not replaced"
        elif not addition.replaces:
            state = "already exists"
        raise PatchError(f"{patch.name}: {addition.file} {state}.", _REMEDY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((patch.folder / addition.file).read_bytes())


def _replace(rule: Replacement, tree: Path, where: str) -> set[Path]:
    """Make one replacement, and return the files that it changed."""
    total, touched = 0, set()
    for pattern in rule.files:
        paths = sorted(path for path in tree.glob(pattern) if path.is_file())
        if not paths:
            raise PatchError(f"{where} finds no file {pattern}.", _REMEDY)
        for path in paths:
            # Bytes, so that line ends stay as they are.
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            text, count = re.subn(rule.pattern, rule.replacement, text, flags=re.MULTILINE)
            if count:
                path.write_bytes(text.encode("utf-8", "surrogateescape"))
                touched.add(path)
            total += count
    if total != rule.count:
        raise PatchError(
            f"{where} matches {total} times in {', '.join(rule.files)}, not {rule.count}.", _REMEDY
        )
    return touched


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
