"""Compares a source tree with the pinned release, file by file.

Only what a build reads counts: the folders of the release's list, other packages (setuptools would take
them along), and the files at the top that setuptools looks for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.util.files import file_sha256

_READ_AT_TOP = re.compile(
    r".*\.py|setup\.cfg|pyproject\.toml|MANIFEST\.in|(README|LICEN[CS]E|COPYING|NOTICE|AUTHORS).*"
)
_NAMED = 5


def differences(tree: Path, files: Mapping[str, str]) -> str:
    """Return how a tree differs from a release's files (path -> SHA-256) where a build reads it; or empty."""
    existing = {path.relative_to(tree).as_posix(): path for path in _read_by_build(tree, files)}
    phrases = []
    for name in sorted(existing.keys() | files.keys()):
        if name not in existing:
            phrases.append(f"{name} is missing")
        elif name not in files:
            phrases.append(f"{name} is added")
        elif file_sha256(existing[name]) != files[name]:
            phrases.append(f"{name} differs")
    more = f", and {len(phrases) - _NAMED} more" if len(phrases) > _NAMED else ""
    return ", ".join(phrases[:_NAMED]) + more


def keep_only(tree: Path, files: Mapping[str, str]) -> None:
    """Make a tree hold only these files, with one mode, so that it is the same wherever it came from."""
    clean = tree.with_name(f"{tree.name}.clean")
    for name in files:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, clean / name)
        (clean / name).chmod(0o644)
    shutil.rmtree(tree)
    clean.rename(tree)


def tree_sha256(root: Path) -> str:
    """Return one SHA-256 for all files of a folder: their names, bytes, and whether they are executable.

    It is the digest of what `sha256sum` prints for the files, sorted by name, with an `x` for an executable
    one in place of the second space.
    """
    digest = hashlib.sha256()
    for name, path in sorted((p.relative_to(root).as_posix(), p) for p in root.rglob("*") if p.is_file()):
        mark = "x" if path.stat().st_mode & 0o100 else " "
        digest.update(os.fsencode(f"{file_sha256(path)} {mark}{name}\n"))
    return digest.hexdigest()


def _read_by_build(tree: Path, files: Mapping[str, str]) -> Iterator[Path]:
    folders = {name.partition("/")[0] for name in files if "/" in name}
    for top in tree.iterdir():
        if top.is_dir():
            if top.name in folders or (top / "__init__.py").exists():
                yield from (path for path in top.rglob("*") if path.is_file())
        elif top.name in files or _READ_AT_TOP.fullmatch(top.name):
            yield top
