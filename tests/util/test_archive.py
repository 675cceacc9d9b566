"""Archives: unpacked without their top folder, whole or not at all."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from builder.util.archive import git_commit, unpack
from builder.util.errors import DownloadError

FILES = {"top/a.txt": b"hello\n", "top/sub/run.sh": b"#!/bin/sh\n"}


def make_tar(path: Path, files: dict[str, bytes] = FILES, comment: str = "") -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:]}", pax_headers={"comment": comment}) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o775 if name.endswith(".sh") else 0o664
            tar.addfile(member, io.BytesIO(content))
    return path


def make_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/", "")
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zip"])
def test_every_kind_is_unpacked_without_its_top_folder(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / name) if name.endswith("zip") else make_tar(tmp_path / name)
    into = tmp_path / "into"
    unpack(archive, into)
    assert {str(path.relative_to(into)) for path in into.rglob("*")} == {"a.txt", "sub", "sub/run.sh"}
    assert (into / "a.txt").read_bytes() == b"hello\n"
    if not name.endswith("zip"):
        assert (into / "sub" / "run.sh").stat().st_mode & stat.S_IXUSR
    assert not (into / "a.txt").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"", "b/c.txt": b""}, "has 2 entries at its top"),
        ({"a.txt": b""}, "has 1 entries at its top, not one folder"),
        ({"top/../../evil": b""}, "can't be unpacked"),
    ],
)
def test_what_has_not_one_folder_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        unpack(make_tar(tmp_path / "a.gz", files), tmp_path / "in" / "to")
    assert not list((tmp_path / "in").iterdir())


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.gz", {"top/a": bytes(range(256)) * 1000}).read_bytes()
    for content in (b"<html>Log in", b"", b"PK\x03\x04", whole[: len(whole) // 2]):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(DownloadError, match=r"^a\.gz can't be unpacked: "):
            unpack(tmp_path / "a.gz", tmp_path / "in" / "to")
    assert not list((tmp_path / "in").iterdir())


def test_the_commit_that_git_archive_writes_is_read(tmp_path: Path) -> None:
    assert git_commit(make_tar(tmp_path / "a.gz", comment="0123456789" * 4)) == "0123456789" * 4
    assert git_commit(make_tar(tmp_path / "b.gz", comment="no commit")) == ""
    assert git_commit(make_zip(tmp_path / "a.zip")) == ""
