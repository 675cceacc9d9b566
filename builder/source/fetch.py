"""Fetches the pinned release from the first of its addresses that has it; its content decides.

An archive with a different SHA-256 than the pinned one is used, with a warning, if its files are those of the
release: who serves it may have compressed it again.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from builder.source.content import differences
from builder.target.upstream import BY_CONTENT, Release
from builder.util.archive import unpack
from builder.util.errors import DownloadError
from builder.util.http import WrongDigestError, download, public_address
from builder.util.log import warn


def fetch_release(release: Release, downloads: Path, tree: Path) -> str:
    """Put the release into a folder, in place of an older one, and return the address that it came from."""
    failures: list[DownloadError] = []
    for address in (release.url, *release.mirrors):
        if failures:
            warn(f"{failures[-1].message} Trying {public_address(address)}.")
        shutil.rmtree(tree, ignore_errors=True)
        try:
            if BY_CONTENT in address:
                _fetch_files(address, release, downloads, tree)
            else:
                _fetch_archive(address, release, downloads, tree)
        except DownloadError as error:
            failures.append(error)
        else:
            return public_address(address)
    mirrors = " No mirror has it either." if failures[1:] else ""
    remedy = f"{failures[0].remedy} Or name a copy of the release with --source.".strip()
    raise DownloadError(failures[0].message + mirrors, remedy)


def _fetch_archive(address: str, release: Release, downloads: Path, tree: Path) -> None:
    warning = ""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        archive = downloads / f"{release.sha256[:16]}-{release.tag}.tar.gz"
        try:
            download(address, archive, release.sha256)
        except WrongDigestError as error:
            warning = f"{error.message} "
            archive = Path(scratch, archive.name)
            download(address, archive)
        unpack(archive, tree)
    if difference := differences(tree, release.files):
        raise DownloadError(f"{warning}{address} is not release {release.tag}: {difference}.")
    if warning:
        warn(f"{warning}Its files are those of release {release.tag}, so it is used.")


def _fetch_files(address: str, release: Release, downloads: Path, tree: Path) -> None:
    for name, sha256 in release.files.items():
        cached = downloads / f"{sha256[:16]}-{Path(name).name}"
        download(address.replace(BY_CONTENT, sha256), cached, sha256)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, tree / name)
