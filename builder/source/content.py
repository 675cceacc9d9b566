"""Compares a source tree with the pinned release, file by file.

Only what a build reads counts: the folders of the release's list, other packages (setuptools would take
them along), and the files at the top that setuptools looks for.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.util.digest import file_sha256

_READ_AT_TOP = re.compile(
    r".*\.py|setup\.cfg|pyproject\.toml|MANIFEST\.in|(README|LICEN[CS]E|COPYING|NOTICE|AUTHORS).*"
)
_SHOWN = 5


def differences(tree: Path, files: Mapping[str, str]) -> list[str]:
    """Return how a tree differs from a release where a build reads it, a phrase for each file.

    Args:
        tree: The source tree.
        files: SHA-256 of each file of the release, by its path.
    """
    there = {path.relative_to(tree).as_posix(): path for path in _read(tree, files)}
    found = []
    for name in sorted(there.keys() | files.keys()):
        if name not in there:
            found.append(f"{name} is missing")
        elif name not in files:
            found.append(f"{name} is added")
        elif not there[name].is_file() or file_sha256(there[name]) != files[name]:
            found.append(f"{name} differs")
    return found


def in_short(found: list[str]) -> str:
    """Return the first few of some differences in one line, and how many more there are."""
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def keep_only(tree: Path, files: Mapping[str, str]) -> None:
    """Make a tree hold only these files, with one mode, so that it is the same wherever it came from."""
    clean = tree.with_name(f"{tree.name}.clean")
    for name in files:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, clean / name)
        (clean / name).chmod(0o644)
    shutil.rmtree(tree)
    clean.rename(tree)


def _read(tree: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """Yield every file that a build of the tree would read."""
    folders = {name.partition("/")[0] for name in files if "/" in name}
    for top in tree.iterdir():
        if top.is_dir():
            if top.name in folders or (top / "__init__.py").exists():
                yield from (path for path in top.rglob("*") if path.is_symlink() or not path.is_dir())
        elif top.name in files or _READ_AT_TOP.fullmatch(top.name):
            yield top
