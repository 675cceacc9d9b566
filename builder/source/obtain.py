"""Gets the source tree that a build works on: a scratch copy, wherever it comes from.

Without `--source` it is the pinned release, verified by its SHA-256. With it, it is whatever the user
names, and the wheel's provenance says that nobody verified it and what it was.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from builder.target.options import BuildOptions, is_url
from builder.target.upstream import Release
from builder.util.archive import git_commit, unpack
from builder.util.digest import file_sha256, tree_sha256
from builder.util.download import download
from builder.util.errors import DownloadError, SourceError
from builder.util.log import say, warn

# What earlier builds and tools leave in a checkout, which must not get into another build.
_LEFT_AWAY = {".git", "__pycache__", ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".nox", ".tox"}
_LEFT_AWAY_AT_TOP = {"build", "dist", "wheelhouse"}
_LEFT_AWAY_ENDINGS = (".egg-info", ".pyc", ".pyo", ".so", ".o")

_NEEDED = {"setup.py": Path.is_file, "csrc": Path.is_dir, "sageattention/__init__.py": Path.is_file}
_VERSION_IN_SETUP = re.compile(
    r"""\b(?:__)?version(?:__)?\s*=\s*(?P<quote>["'])(?P<version>[^"'\n]+)(?P=quote)""", re.IGNORECASE
)


@dataclass(frozen=True)
class Source:
    """A source tree to build from.

    Attributes:
        kind: `release`, `directory`, `archive` or `url`.
        location: The address or path that it came from.
        sha256: Of the archive; of a directory, `tree_sha256` of the copy.
        verified: Whether it is the pinned release with the right SHA-256.
        version: As its `setup.py` has it.
        tree: The scratch copy.
        commit: Its git commit, where that is known; a checkout may have changes on top.
    """

    kind: str
    location: str
    sha256: str | None
    verified: bool
    version: str
    tree: Path
    commit: str | None = None


def obtain(options: BuildOptions, release: Release, scratch: Path) -> Source:
    """Have the source in `scratch/source`, in place of whatever was there.

    Args:
        options: `source` and `cache_dir` count.
        release: The pinned one, for builds without `source`.
        scratch: The build's own folder.

    Raises:
        SourceError: There is no source of SageAttention at that place.
        DownloadError: It can't be downloaded, or has the wrong bytes.
    """
    tree = scratch / "source"
    downloads = options.cache_dir / "downloads"
    shutil.rmtree(tree, ignore_errors=True)
    if options.source is None:
        say(f"  source: release {release.tag}, {release.url}")
        archive = download(release.url, release.sha256, None, downloads)
        unpack(archive, tree)
        return Source("release", release.url, release.sha256, True, check_tree(tree), tree, release.commit)
    if is_url(options.source):
        _check_address(options.source)
        warn(f"the source is unverified: {options.source}")
        archive = download(options.source, None, None, downloads)
        return _from_archive("url", options.source, archive, tree)
    path = Path(options.source)
    if path.is_dir():
        warn(f"the source is unverified: {path}")
        copy_tree(path, tree, without=scratch)
        return Source(
            "directory",
            str(path),
            tree_sha256(tree),
            False,
            check_tree(tree, path),
            tree,
            checkout_commit(path),
        )
    if path.is_file():
        warn(f"the source is unverified: {path}")
        return _from_archive("archive", str(path), path, tree)
    raise SourceError(
        f"--source {path}: " + ("is no directory or file." if path.exists() else "not found."),
        "Give a directory, a .tar.* or .zip file, or an https address.",
    )


def _check_address(url: str) -> None:
    if not url.startswith(("https://", "http://")):
        raise SourceError(
            f"--source {url}: only http and https addresses can be downloaded.",
            "Of a git repository, give the address of an archive of it, or clone it and give the directory.",
        )


def _from_archive(kind: str, location: str, archive: Path, tree: Path) -> Source:
    try:
        unpack(archive, tree)
    except DownloadError as error:
        raise SourceError(error.message, error.remedy) from error
    return Source(
        kind, location, file_sha256(archive), False, check_tree(tree, location), tree, git_commit(archive)
    )


def check_tree(tree: Path, location: Path | str | None = None) -> str:
    """See that a tree is source of SageAttention 2, and read its version.

    Args:
        tree: The copy.
        location: What to call it in an error; None is the tree itself.

    Returns:
        The version that its `setup.py` has.

    Raises:
        SourceError: Something is missing, or its version can't be read.
    """
    missing = [name for name, is_there in _NEEDED.items() if not is_there(tree / name)]
    if missing:
        raise SourceError(
            f"{location or tree} is no source of SageAttention: {', '.join(missing)} not found in it.",
            "Give the folder (or an archive of it) that holds setup.py, csrc/ and sageattention/.",
        )
    version = read_version((tree / "setup.py").read_text(encoding="utf-8", errors="replace"))
    if version is None:
        raise SourceError(
            f"{location or tree}: setup.py has no version that can be read.",
            'It must have it as text, such as version="2.2.0".',
        )
    return version


def read_version(setup_py: str) -> str | None:
    """The first version that is written as text in a `setup.py`, normalised (PEP 440); None without."""
    for match in _VERSION_IN_SETUP.finditer(setup_py):
        try:
            return str(Version(match["version"]))
        except InvalidVersion:
            continue
    return None


def copy_tree(source: Path, into: Path, without: Path | None = None) -> None:
    """Copy a user's directory, without what builds and tools leave there.

    Nothing in the copy leads back: links to files become copies of them, links to folders are followed.
    All of the copy can be written, whatever the modes of the original.

    Args:
        source: The directory; only read.
        into: The folder to make.
        without: A folder to leave out wherever it is met, such as the scratch folder itself.

    Raises:
        SourceError: Something can't be read, or the copy can't be written.
    """
    try:
        left_out = without.resolve() if without is not None else None
        _copy_folder(source, into, top=True, above=(), is_left_out=lambda path: path == left_out)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SourceError(f"No space for a copy of {source} in {into.parent}.", "Free some.") from error
        raise SourceError(f"{source} can't be copied: {error}.") from error


def _copy_folder(
    source: Path, into: Path, *, top: bool, above: tuple[Path, ...], is_left_out: Callable[[Path], bool]
) -> None:
    real = source.resolve()
    if real in above:
        raise SourceError(
            f"{source} is a link to a folder that it lies in: it can't be copied.", "Remove it."
        )
    into.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        name = entry.name
        if name in _LEFT_AWAY or name.endswith(_LEFT_AWAY_ENDINGS) or (top and name in _LEFT_AWAY_AT_TOP):
            continue
        if is_left_out(entry.resolve()):
            continue
        if entry.is_dir():
            if not (entry / "pyvenv.cfg").exists():  # a virtual environment
                _copy_folder(entry, into / name, top=False, above=(*above, real), is_left_out=is_left_out)
        elif entry.is_file():
            shutil.copyfile(entry, into / name)
            found = entry.stat()
            (into / name).chmod(0o755 if found.st_mode & stat.S_IXUSR else 0o644)
        else:
            what = "a link to nothing" if entry.is_symlink() else "no file or folder"
            warn(f"{entry} is {what}; left out of the copy")


def checkout_commit(directory: Path) -> str | None:
    """The commit that a git checkout is at, read from its files; None where it is none.

    Follows gitrepository-layout(5): `.git` may be a file that names the folder (a worktree, a submodule),
    and a branch is a file of its own or a line of `packed-refs`.
    """
    try:
        git = directory / ".git"
        if git.is_file():
            git = directory / git.read_text().removeprefix("gitdir:").strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return _commit(head)
        ref = head.removeprefix("ref:").strip()
        for place in (git, common):
            if (place / ref).is_file():
                return _commit((place / ref).read_text().strip())
        for line in (common / "packed-refs").read_text().splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _commit(commit)
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None
