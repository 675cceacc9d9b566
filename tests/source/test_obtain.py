"""Sources to build from: the pinned release, and what a user names."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_source import COMMIT, COPIED, READ, files, pack, release, sums
from static_server import StaticServer

from builder.source.checkout import copy_tree
from builder.source.obtain import obtain, read_version
from builder.target.options import BuildOptions
from builder.util.digest import file_sha256, tree_sha256
from builder.util.errors import DownloadError, SourceError


def snapshot(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """Mode, size, time of change, and content of everything in a directory."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        content = path.read_text() if path.is_file() else ""
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, content)
    return found


def options(tmp_path: Path, source: str | Path | None) -> BuildOptions:
    return BuildOptions(source=str(source) if source else None, cache_dir=tmp_path / "cache")


NO_RELEASE = release({"setup.py": "0" * 64}, "http://127.0.0.1:1/none.tar.gz")


def test_without_source_it_is_the_verified_release(
    served: StaticServer, checkout: Path, tmp_path: Path
) -> None:
    archive = pack(checkout, served.folder / "v2.2.0.tar.gz")
    pinned = release(sums(checkout), f"{served.url}/v2.2.0.tar.gz", file_sha256(archive))
    source = obtain(options(tmp_path, None), pinned, tmp_path / "scratch")
    assert (source.kind, source.verified, source.commit) == ("release", True, COMMIT)
    assert source.sha256 == pinned.sha256
    assert source.location == pinned.url
    assert source.version == "2.2.1.dev3"
    assert files(source.tree) == READ
    archive.unlink()
    (source.tree / "setup.py").write_text("a build changed it")
    again = obtain(options(tmp_path, None), pinned, tmp_path / "scratch")
    assert "version=" in (again.tree / "setup.py").read_text(), "fresh, and from the cache"


def test_wherever_the_release_comes_from_it_is_the_same(
    served: StaticServer, checkout: Path, tmp_path: Path
) -> None:
    """Equal in all that a wheel says of it, and in every file, mode and name that a build sees."""
    archive = pack(checkout, served.folder / "v2.2.0.tar.gz")
    pinned = release(sums(checkout), f"{served.url}/v2.2.0.tar.gz", file_sha256(archive))
    pack(checkout, tmp_path / "copy.tgz", level=1)
    with zipfile.ZipFile(tmp_path / "copy.zip", "w") as packed:
        for name in COPIED:
            packed.write(checkout / name, f"mirror/{name}")
    (checkout / "setup.py").chmod(0o755)
    (checkout / "notes.txt").write_text("no build reads this")
    (checkout / "csrc" / ".fused.cu.swp").write_text("an editor's")
    given = [None, checkout, tmp_path / "copy.tgz", tmp_path / "copy.zip", f"{served.url}/v2.2.0.tar.gz?a=1"]
    found = []
    for number, source in enumerate(given):
        one = obtain(options(tmp_path, source), pinned, tmp_path / str(number))
        modes = {path.relative_to(one.tree).as_posix(): path.stat().st_mode for path in one.tree.rglob("*")}
        told = replace(one, tree=Path(), obtained_from="")
        found.append((told, tree_sha256(one.tree), modes))
        assert str(tmp_path) not in one.obtained_from
    assert found[1:] == found[:1] * 4
    assert found[0][0].verified


@pytest.mark.parametrize("change", ["differs", "is missing", "is added"])
def test_one_file_makes_it_unverified_and_is_named(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    pinned = release(sums(checkout), "http://127.0.0.1:1/none.tar.gz")
    path = checkout / "csrc" / ("new.h" if change == "is added" else "fused/fused.cu")
    if change == "is missing":
        path.unlink()
    else:
        path.write_text("changed")
    source = obtain(options(tmp_path, checkout), pinned, tmp_path / "scratch")
    assert (source.kind, source.verified, source.tag) == ("directory", False, "")
    name = path.relative_to(checkout).as_posix()
    said = capsys.readouterr().err
    assert f"the source is unverified: checkout is not release v2.2.0: {name} {change}\n" in said


def test_no_secret_of_an_address_is_kept_or_printed(
    served: StaticServer, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(checkout, served.folder / "fork.tar.gz")
    url = f"{served.url}/fork.tar.gz?token=hush#hush".replace("://", "://me:hush@")
    source = obtain(options(tmp_path, url), NO_RELEASE, tmp_path / "scratch")
    assert source.location == source.obtained_from == f"{served.url}/fork.tar.gz"
    with pytest.raises(DownloadError) as caught:
        obtain(options(tmp_path, url.replace("fork", "none")), NO_RELEASE, tmp_path / "scratch")
    assert "hush" not in "".join([str(caught.value), *capsys.readouterr()])


def test_a_directory_is_copied_without_what_builds_leave_in_it(checkout: Path, tmp_path: Path) -> None:
    source = obtain(options(tmp_path, checkout), NO_RELEASE, tmp_path / "scratch")
    assert (source.kind, source.verified, source.version) == ("directory", False, "2.2.1.dev3")
    assert source.location == "checkout"
    assert source.commit == COMMIT
    assert files(source.tree) == COPIED
    assert source.sha256 == tree_sha256(source.tree)
    assert source.tree == tmp_path / "scratch" / "source"


def test_nothing_is_ever_written_into_the_users_directory(checkout: Path, tmp_path: Path) -> None:
    for path in sorted(checkout.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    checkout.chmod(0o555)
    before = snapshot(checkout)
    source = obtain(options(tmp_path, checkout), NO_RELEASE, tmp_path / "scratch")
    for name in COPIED:
        copy = source.tree / name
        assert not copy.is_symlink(), "a link would lead back into the directory"
        assert copy.stat().st_mode & 0o200, "the copy can be patched"
        copy.write_text("patched")
        (copy.parent / "made-by-the-build").write_text("new")
    assert snapshot(checkout) == before
    for path in [checkout, *checkout.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755)


def test_a_scratch_folder_inside_the_directory_is_not_copied_into_itself(
    checkout: Path, tmp_path: Path
) -> None:
    source = obtain(options(tmp_path, checkout), NO_RELEASE, checkout / "tmp" / "scratch")
    assert files(source.tree) == COPIED


def test_a_directorys_digest_tells_content_name_and_mode_but_not_time(checkout: Path, tmp_path: Path) -> None:
    def digest() -> str:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy_tree(checkout, tmp_path / "copy")
        return tree_sha256(tmp_path / "copy")

    first = digest()
    os.utime(checkout / "setup.py", (1, 1))
    (checkout / "setup.py").chmod(0o600)
    (checkout / "build" / "more.o").write_text("left away")
    assert digest() == first
    (checkout / "setup.py").chmod(0o755)
    executable = digest()
    assert executable != first
    (checkout / "setup.py").chmod(0o644)
    (checkout / "csrc" / "fused" / "fused.cu").rename(checkout / "csrc" / "fused.cu")
    assert digest() not in {first, executable}


def test_an_archive_is_unpacked_and_unverified(checkout: Path, tmp_path: Path) -> None:
    archive = pack(checkout, tmp_path / "fork.tar.gz")
    source = obtain(options(tmp_path, archive), NO_RELEASE, tmp_path / "scratch")
    assert (source.kind, source.location, source.verified) == ("archive", "fork.tar.gz", False)
    assert source.sha256 == file_sha256(archive)
    assert source.commit == COMMIT
    assert files(source.tree) == COPIED


def test_an_address_is_downloaded_anew_each_time_and_unverified(
    served: StaticServer, checkout: Path, tmp_path: Path
) -> None:
    archive = pack(checkout, served.folder / "main.tar.gz")
    url = f"{served.url}/main.tar.gz"
    source = obtain(options(tmp_path, url), NO_RELEASE, tmp_path / "scratch")
    assert (source.kind, source.location, source.verified) == ("url", url, False)
    assert source.sha256 == file_sha256(archive)
    (checkout / "setup.py").write_text("VERSION = '3.0'\n")
    pack(checkout, archive)
    assert obtain(options(tmp_path, url), NO_RELEASE, tmp_path / "scratch").version == "3.0"
    assert [*(tmp_path / "cache" / "downloads").iterdir()] == [], "nothing could recognise it there"


def test_a_zip_file_serves_as_well(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "main.zip", "w") as archive:
        for name in COPIED:
            archive.write(checkout / name, f"SageAttention-main/{name}")
    source = obtain(options(tmp_path, tmp_path / "main.zip"), NO_RELEASE, tmp_path / "scratch")
    assert files(source.tree) == COPIED
    assert source.commit == ""


@pytest.mark.parametrize("missing", ["setup.py", "csrc", "sageattention"])
def test_a_directory_that_is_no_sageattention_is_refused(
    checkout: Path, tmp_path: Path, missing: str
) -> None:
    shutil.move(checkout / missing, tmp_path / "away")
    with pytest.raises(SourceError) as caught:
        obtain(options(tmp_path, checkout), NO_RELEASE, tmp_path / "scratch")
    assert f"checkout is not a source of SageAttention: {missing}" in caught.value.message


def test_a_source_without_a_version_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "setup.py").write_text("setup(version=get_version())\n")
    with pytest.raises(SourceError, match=r"the version in setup\.py can't be read"):
        obtain(options(tmp_path, checkout), NO_RELEASE, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("setup(version='2.2.0')", "2.2.0"),
        ('setup(\n    version = "2.2.0",\n)', "2.2.0"),
        ("__version__ = '3.0rc1'", "3.0rc1"),
        ("nvcc_cuda_version = '12.8'\nVERSION = '2.1.1'", "2.1.1"),
        ("python_version='x'\nversion='unknown'\nversion='1.0-beta2'", "1.0b2"),
        ("setup(version=VERSION)", None),
        ("", None),
        (f"version='{'9' * 5000}'", None),
        (f"version='1.0+{'a.' * 500}b'", None),
        (f"version='{'9' * 5000}'\nversion='1.0'", "1.0"),
    ],
)
def test_versions_are_read_from_the_text(text: str, version: str | None) -> None:
    assert read_version(text) == version


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/nowhere/at/all", "--source /nowhere/at/all: not found"),
        ("/dev/null", "--source /dev/null: not a directory or file"),
        ("git+https://github.com/thu-ml/SageAttention.git", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("/" + "n" * 300, "File name too long"),
        ("/" + "n/" * 3000, "File name too long"),
        ("/dev/null/x", "Not a directory"),
    ],
)
def test_what_can_t_be_a_source_is_refused(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        obtain(options(tmp_path, source), NO_RELEASE, tmp_path / "scratch")
    assert said in caught.value.message
    assert caught.value.remedy


def test_a_hostile_archive_is_a_source_error(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("top/../../evil"))
    with pytest.raises(SourceError, match="leads out of the folder"):
        obtain(options(tmp_path, archive), NO_RELEASE, tmp_path / "scratch")


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"two\nlines", b"\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}".encode()]
)
def test_a_directory_may_have_any_name(checkout: Path, tmp_path: Path, name: bytes) -> None:
    named = checkout.rename(tmp_path / os.fsdecode(name))
    (named / "sageattention" / os.fsdecode(b"\xff.py")).write_text("")
    source = obtain(options(tmp_path, named), NO_RELEASE, tmp_path / "scratch")
    assert source.location.isprintable()
    assert source.location.encode().decode() == source.location
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://", "http://x:y/", "http://\udcff/", "http://.../", "HTTP://"]
)
def test_what_is_no_address_is_one_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="can't be downloaded"):
        obtain(options(tmp_path, url), NO_RELEASE, tmp_path / "scratch")
