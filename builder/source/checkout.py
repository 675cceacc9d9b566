"""A directory of the user's that is built from: a copy of it, and the git commit that it is at."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from builder.util.errors import SourceError
from builder.util.log import warn

# What earlier builds and tools leave in a checkout, which must not get into another build.
_OMITTED = {".git", "__pycache__", ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".nox", ".tox"}
_OMITTED_AT_TOP = {"build", "dist", "wheelhouse"}
_OMITTED_ENDINGS = (".egg-info", ".pyc", ".pyo", ".so", ".o", "~")
# What editors and file managers leave: vim's swap files, Emacs' copies and locks.
_EDITORS_OWN = re.compile(r"\..*\.sw[a-z]|#.*#|\.#.*|\.DS_Store")


def copy_tree(source: Path, into: Path, without: Path | None = None) -> None:
    """Copy a user's directory, without what builds and tools leave there.

    Nothing in the copy leads back: links to files become copies of them, links to folders are followed.
    All of the copy can be written, whatever the modes of the original.

    Args:
        source: The directory; only read.
        into: The folder to make.
        without: A folder to omit wherever it is found, such as the scratch folder itself.

    Raises:
        SourceError: Something can't be read, or the copy can't be written.
    """
    try:
        omitted = _real(without) if without is not None else None
        _copy_folder(source, into, top=True, above=(), is_omitted=lambda path: path == omitted)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SourceError(f"No space for a copy of {source} in {into.parent}.", "Free some.") from error
        raise SourceError(f"{source} can't be copied: {error}.") from error


def _copy_folder(
    source: Path, into: Path, *, top: bool, above: tuple[Path, ...], is_omitted: Callable[[Path], bool]
) -> None:
    real = _real(source)
    if real in above:
        raise SourceError(
            f"{source} is a link to a folder that contains it, and can't be copied.", "Remove the link."
        )
    into.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        name = entry.name
        if name in _OMITTED or name.endswith(_OMITTED_ENDINGS) or (top and name in _OMITTED_AT_TOP):
            continue
        if _EDITORS_OWN.fullmatch(name) or is_omitted(_real(entry)):
            continue
        if entry.is_dir():
            if not (entry / "pyvenv.cfg").exists():  # a virtual environment
                _copy_folder(entry, into / name, top=False, above=(*above, real), is_omitted=is_omitted)
        elif entry.is_file():
            shutil.copyfile(entry, into / name)
            found = entry.stat()
            (into / name).chmod(0o755 if found.st_mode & stat.S_IXUSR else 0o644)
        else:
            what = "a broken link" if entry.is_symlink() else "not a file or folder"
            warn(f"{entry} is {what}; it is not copied")


def _real(path: Path) -> Path:
    """Return a path without links; `Path.resolve` fails over links that lead in a circle."""
    return Path(os.path.realpath(path))


def checkout_commit(directory: Path) -> str:
    """Return the commit that a git checkout is at, read from its files; empty where it is not one.

    Follows gitrepository-layout(5): `.git` may be a file that names the folder (a worktree, a submodule),
    and a branch is a file of its own or a line of `packed-refs`.
    """
    try:
        git = directory / ".git"
        if git.is_file():
            git = directory / _text(git).removeprefix("gitdir:").strip()
        common = git / _text(git / "commondir") if (git / "commondir").is_file() else git
        head = _text(git / "HEAD")
        if not head.startswith("ref:"):
            return _commit(head)
        ref = head.removeprefix("ref:").strip()
        for place in (git, common):
            if (place / ref).is_file():
                return _commit(_text(place / ref))
        for line in _text(common / "packed-refs").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _commit(commit)
    except (OSError, ValueError):  # ValueError: not text, or a null byte in a path
        pass
    return ""


def _text(path: Path) -> str:
    """Return a file's text, stripped; of what is not a file, such as a pipe, nothing."""
    return path.read_text().strip() if path.is_file() else ""


def _commit(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else ""
