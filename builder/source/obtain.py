"""Obtains the source tree that a build works on: a scratch copy, wherever it comes from.

Without `--source` it is the pinned release, from the first of its addresses that has it. With it, it is
whatever the user names. Either way its content decides: where the files that a build reads are those of the
release, it is the release, verified. Otherwise it is unverified, and the wheel's provenance says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from builder.target.options import BuildOptions, is_url
from builder.target.project import git
from builder.target.targets import Release
from builder.util.errors import DownloadError, SourceError
from builder.util.files import file_sha256
from builder.util.http import download, unpack
from builder.util.log import public_address, say, warn

_NEEDED = ("setup.py", "csrc", "sageattention/__init__.py")
_VERSION_IN_SETUP = re.compile(r"""\b(?:__)?version(?:__)?\s*=\s*["']([^"'\n]+)["']""", re.IGNORECASE)
# What builds, tools and editors leave in a checkout, which must not get into another build.
_OMITTED = shutil.ignore_patterns(
    *(".git", "__pycache__", ".eggs", ".*_cache", ".nox", ".tox", "*.egg-info", ".DS_Store"),
    *("*.py[co]", "*.so", "*.o", "*~", ".*.sw?", "#*#", ".#*"),
)
_OMITTED_AT_TOP = {"build", "dist", "wheelhouse"}
# What setuptools looks for beside the folders of the release and other packages, which it would take along.
_READ_AT_TOP = re.compile(
    r".*\.py|setup\.cfg|pyproject\.toml|MANIFEST\.in|(README|LICEN[CS]E|COPYING|NOTICE|AUTHORS).*"
)
_NAMED = 5
_BY_CONTENT = "{sha256}"  # in the address of a mirror that has each file at an address of its own


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
        commit: Empty where it is not known; a checkout may have changes on top.
        tag: The release's; empty for anything else.
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
    """Put the source that the options name, or the pinned release, into `scratch/source`."""
    tree = scratch / "source"
    shutil.rmtree(tree, ignore_errors=True)
    if options.source is None:
        place = fetch_release(release, options.cache_dir / "downloads", tree)
        kind, sha256, commit = "url", release.sha256, ""
    else:
        kind, place, sha256, commit = _take(options.source, scratch, tree)
    version = _check_tree(tree, place)
    source = partial(Source, version=version, license=release.license, tree=tree, obtained_from=place)
    if difference := differences(tree, release.files):
        warn(f"the source is unverified: {place} is not release {release.tag}: {difference}")
        return source(kind=kind, location=place, sha256=sha256, commit=commit)
    keep_only(tree, release.files)
    say(f"  source: release {release.tag}, verified, from {place}")
    return source(
        kind="release", location=release.url, sha256=release.sha256, commit=release.commit, tag=release.tag
    )


def fetch_release(release: Release, downloads: Path, tree: Path) -> str:
    """Put the release into a folder, in place of an older one, and return the address that it came from."""
    failures: list[DownloadError] = []
    for address in (release.url, *release.mirrors):
        shutil.rmtree(tree, ignore_errors=True)
        try:
            _fetch(address, release, downloads, tree)
            return public_address(address)
        except DownloadError as error:
            warn(error.message)
            failures.append(error)
    remedy = f"{failures[0].remedy} Or name a copy of the release with --source.".strip()
    raise DownloadError(failures[0].message, remedy)


def _fetch(address: str, release: Release, downloads: Path, tree: Path) -> None:
    """Get the pinned archive from an address, or each file by its content."""
    if _BY_CONTENT not in address:
        archive = downloads / f"{release.sha256[:16]}-{release.tag}.tar.gz"
        download(address, archive, release.sha256)
        unpack(archive, tree)
        return
    for name, sha256 in release.files.items():
        cached = downloads / f"{sha256[:16]}-{Path(name).name}"
        download(address.replace(_BY_CONTENT, sha256), cached, sha256)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, tree / name)


def _take(source: str, scratch: Path, tree: Path) -> tuple[str, str, str, str]:
    """Copy or unpack what the user names; return its kind, place, SHA-256 and commit."""
    path, kind = Path(source), "archive"
    place = "".join(letter if letter.isprintable() else "?" for letter in path.name)
    if path.is_dir():
        _check_tree(path, place or source)  # before a copy of whatever it is
        _copy(path, tree, without=scratch)
        return "directory", place, tree_sha256(tree), git(path, "rev-parse", "HEAD")
    if source.startswith(("https://", "http://")):
        kind, place = "url", public_address(source)
        path = scratch / (Path(urlsplit(place).path).name or "archive")
        download(source, path)
    elif not path.is_file():
        reason = "not an http or https address" if is_url(source) else "no such directory or file"
        remedy = "Give a directory, a .tar.* or .zip file, or an https address."
        raise SourceError(f"--source {source}: {reason}.", remedy)
    try:
        commit = unpack(path, tree)
    except DownloadError as error:
        raise SourceError(f"{place}: {error.message}", error.remedy) from error
    return kind, place, file_sha256(path), commit


def _copy(source: Path, tree: Path, without: Path) -> None:
    """Copy a user's directory, without what builds and tools leave there.

    Links are followed, and all of the copy can be written, whatever the modes of the original.
    """

    def omitted(folder: str, names: list[str]) -> set[str]:
        paths = {name: Path(folder, name) for name in names}
        return _OMITTED(folder, names) | {
            name
            for name, path in paths.items()
            if (Path(folder) == source and name in _OMITTED_AT_TOP)
            or (path / "pyvenv.cfg").exists()  # a virtual environment
            or not (path.is_dir() or path.is_file())
            or path.resolve() in {without.resolve(), *Path(folder).resolve().parents, Path(folder).resolve()}
        }

    try:
        shutil.copytree(source, tree, ignore=omitted)
        for path in (tree, *tree.rglob("*")):
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # that of the first file
        raise SourceError(f"{source} can't be copied: {reason}.") from error


def _check_tree(tree: Path, location: str) -> str:
    """Check that a tree is source of SageAttention 2, and return the version in its `setup.py` (PEP 440)."""
    if missing := [name for name in _NEEDED if not (tree / name).exists()]:
        raise SourceError(
            f"{location} is not a source of SageAttention: {', '.join(missing)} not found in it."
        )
    match = _VERSION_IN_SETUP.search((tree / "setup.py").read_text(encoding="utf-8", errors="replace"))
    try:
        return str(Version(match[1] if match else ""))
    except InvalidVersion:
        raise SourceError(f"{location}: setup.py has no version as text.") from None


def differences(tree: Path, files: Mapping[str, str]) -> str:
    """Return how a tree differs from a release's files (path -> SHA-256) where a build reads it; or empty."""
    found = {path.relative_to(tree).as_posix(): file_sha256(path) for path in _read_by_build(tree, files)}
    phrases = [f"{name} is missing" for name in files.keys() - found.keys()]
    phrases += [f"{name} is added" for name in found.keys() - files.keys()]
    phrases += [f"{name} differs" for name in files.keys() & found.keys() if files[name] != found[name]]
    more = f", and {len(phrases) - _NAMED} more" if len(phrases) > _NAMED else ""
    return ", ".join(sorted(phrases)[:_NAMED]) + more


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
