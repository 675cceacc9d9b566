"""Obtains the source tree that a build works on: a scratch copy, wherever it comes from.

Without `--source` it is the pinned release, from the first of its addresses that has it. With it, it is
whatever the user names. Either way its content decides: where the files that a build reads are those of the
release, it is the release, verified. Otherwise it is unverified, and the wheel's provenance says so.
"""

from __future__ import annotations

import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from builder.source.checkout import checkout_commit, copy_tree
from builder.source.content import differences, in_short, keep_only
from builder.source.fetch import fetch_release
from builder.target.options import BuildOptions, is_url
from builder.target.upstream import Release
from builder.util.addresses import public_address
from builder.util.archive import git_commit, unpack
from builder.util.digest import file_sha256, tree_sha256
from builder.util.downloads.download import download
from builder.util.errors import DownloadError, SourceError
from builder.util.log import say, warn

_NEEDED = {"setup.py": Path.is_file, "csrc": Path.is_dir, "sageattention/__init__.py": Path.is_file}
_VERSION_IN_SETUP = re.compile(
    r"""\b(?:__)?version(?:__)?\s*=\s*(?P<quote>["'])(?P<version>[^"'\n]{1,64})(?P=quote)""", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is built from.

    Attributes:
        kind: `release`, and for an unverified one `directory`, `archive` or `url`.
        location: For the release its pinned address. Otherwise the public part of the address that it came
            from, or the name of the folder or file.
        sha256: Of the archive, for the release the pinned one; of a directory, `tree_sha256` of the copy.
        version: As its `setup.py` has it.
        license: SPDX expression.
        tree: The scratch copy.
        obtained_from: Where this copy came from: an address's public part, or a name; no wheel says it.
        commit: Its git commit, empty where it is not known; a checkout may have changes on top.
        tag: The release's git tag; empty for anything else.
    """

    kind: str
    location: str
    sha256: str
    version: str
    license: str
    tree: Path
    obtained_from: str
    commit: str = ""
    tag: str = ""

    @property
    def verified(self) -> bool:
        """Whether its files are those of the pinned release."""
        return self.kind == "release"


def obtain(options: BuildOptions, release: Release, scratch: Path) -> Source:
    """Put the source into `scratch/source`, in place of whatever was there.

    Args:
        options: `source` and `cache_dir` count.
        release: The pinned one.
        scratch: The build's own folder.

    Raises:
        SourceError: There is no source of SageAttention at that place.
        DownloadError: It can't be downloaded, or is not the release that it must be.
    """
    tree, downloads = scratch / "source", options.cache_dir / "downloads"
    if options.source is None:
        return _verified(release, tree, fetch_release(release, downloads, tree))
    kind, given = _kind(options.source), options.source
    shutil.rmtree(tree, ignore_errors=True)
    if kind == "directory":
        copy_tree(Path(given), tree, without=scratch)
        sha256, commit = tree_sha256(tree), checkout_commit(Path(given))
    else:
        archive = download(given, None, None, downloads) if kind == "url" else Path(given)
        try:
            unpack(archive, tree)
            sha256, commit = file_sha256(archive), git_commit(archive)
        except DownloadError as error:
            raise SourceError(error.message, error.remedy) from error
        finally:
            if kind == "url":
                archive.unlink()
    place = public_address(given) if kind == "url" else Path(given).name or kind
    location = place.replace("\n", "\\n")  # one line of METADATA has it
    version = check_tree(tree, location)
    found = differences(tree, release.files)
    if not found:
        return _verified(release, tree, location)
    warn(f"the source is unverified: {location} is not release {release.tag}: {in_short(found)}")
    return Source(
        kind=kind,
        location=location,
        sha256=sha256,
        version=version,
        license=release.license,
        tree=tree,
        obtained_from=location,
        commit=commit,
    )


def _verified(release: Release, tree: Path, obtained_from: str) -> Source:
    keep_only(tree, release.files)
    say(f"  source: release {release.tag}, verified, from {obtained_from}")
    return Source(
        kind="release",
        location=release.url,
        sha256=release.sha256,
        version=check_tree(tree, obtained_from),
        license=release.license,
        tree=tree,
        obtained_from=obtained_from,
        commit=release.commit,
        tag=release.tag,
    )


def _kind(source: str) -> str:
    if is_url(source):
        if source.lower().startswith(("https://", "http://")):
            return "url"
        raise SourceError(
            f"--source {source}: only http and https addresses can be downloaded.",
            "For a git repository, give the address of an archive of it, or clone it and give the directory.",
        )
    path, said = Path(source), "not a directory or file"
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            return "directory" if stat.S_ISDIR(mode) else "archive"
    except OSError as error:
        said = "not found" if isinstance(error, FileNotFoundError) else str(error.strerror)
    raise SourceError(
        f"--source {path}: {said}.", "Give a directory, a .tar.* or .zip file, or an https address."
    )


def check_tree(tree: Path, location: str) -> str:
    """Check that a tree is source of SageAttention 2, and return the version that its `setup.py` has.

    Args:
        tree: The copy.
        location: What to call it in an error.

    Raises:
        SourceError: Something is missing, or its version can't be read.
    """
    missing = [name for name, is_there in _NEEDED.items() if not is_there(tree / name)]
    if missing:
        raise SourceError(
            f"{location} is not a source of SageAttention: {', '.join(missing)} not found in it.",
            "Give the folder (or an archive of it) that holds setup.py, csrc/ and sageattention/.",
        )
    version = read_version((tree / "setup.py").read_text(encoding="utf-8", errors="replace"))
    if version is None:
        raise SourceError(
            f"{location}: the version in setup.py can't be read.",
            'It must be there as text, such as version="2.2.0".',
        )
    return version


def read_version(setup_py: str) -> str | None:
    """Return the first version written as text in a `setup.py`, normalised (PEP 440); None without one."""
    for match in _VERSION_IN_SETUP.finditer(setup_py):
        try:
            return str(Version(match["version"]))
        except InvalidVersion:
            continue
    return None
