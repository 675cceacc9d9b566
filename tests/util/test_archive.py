"""Archives from outside: what is unpacked, and what refuses the whole of one."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from builder.util.archive import git_commit, unpack
from builder.util.errors import DownloadError

Entry = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"hello\n", mode: int = 0o644) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = mode
    info.mtime = 1_700_000_000
    return info, content


def special(name: str, kind: bytes, target: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    info.mode = 0o777
    return info


def folder(name: str, mode: int = 0o755) -> Entry:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    info.mode = mode
    return info


def link(name: str, target: str) -> Entry:
    return special(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> Entry:
    return special(name, tarfile.LNKTYPE, target)


@pytest.fixture
def tar(tmp_path: Path) -> Callable[..., Path]:
    def make(entries: Iterable[Entry], kind: str = "gz", name: str = "source.tar") -> Path:
        path = tmp_path / name
        with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
            for entry in entries:
                info, content = entry if isinstance(entry, tuple) else (entry, b"")
                archive.addfile(info, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    def make(entries: Iterable[tuple[str, str, int]]) -> Path:
        path = tmp_path / "source.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content, mode in entries:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, content)
        return path

    return make


def tree(root: Path) -> dict[str, str]:
    """Every file's text and every link's target, by path."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", ""])
def test_every_kind_of_tar_is_unpacked_whatever_its_name(
    tar: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    archive = tar([folder("top"), file("top/setup.py"), file("top/csrc/a.cu", b"kernel")], kind, "v2.2.0")
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"setup.py": "hello\n", "csrc/a.cu": "kernel"}


def test_zip_files_are_unpacked_too(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    archive = make_zip(
        [
            ("top/", "", stat.S_IFDIR | 0o755),
            ("top/setup.py", "hello", stat.S_IFREG | 0o600),
            ("top/run", "#!", stat.S_IFREG | 0o755),
            ("top/lib/l.so.1", "so", 0),
            ("top/lib/l.so", "l.so.1", stat.S_IFLNK | 0o777),
        ]
    )
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "setup.py": "hello",
        "run": "#!",
        "lib/l.so.1": "so",
        "lib/l.so": "-> l.so.1",
    }
    assert mode(tmp_path / "out" / "run") == 0o755
    assert mode(tmp_path / "out" / "setup.py") == 0o644


def test_modes_are_made_sane(tar: Callable[..., Path], tmp_path: Path) -> None:
    entries = [folder("top/locked", 0), file("top/locked/a", mode=0), file("top/suid", mode=0o6777)]
    unpack(tar(entries), tmp_path / "out")
    assert mode(tmp_path / "out" / "locked") == 0o755
    assert mode(tmp_path / "out" / "locked" / "a") == 0o644
    assert mode(tmp_path / "out" / "suid") == 0o755
    assert (tmp_path / "out" / "suid").stat().st_mtime == 1_700_000_000


def test_no_or_more_leading_folders_can_be_left_away(tar: Callable[..., Path], tmp_path: Path) -> None:
    archive = tar([file("a/b/c")])
    unpack(archive, tmp_path / "none", strip_components=0)
    unpack(archive, tmp_path / "two", strip_components=2)
    assert tree(tmp_path / "none") == {"a/b/c": "hello\n"}
    assert tree(tmp_path / "two") == {"c": "hello\n"}


def test_a_leading_dot_is_no_folder(tar: Callable[..., Path], tmp_path: Path) -> None:
    unpack(tar([folder("./"), folder("./top"), file("./top/./a")]), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": "hello\n"}


def test_links_inside_stay_links_and_hard_links_become_copies(
    tar: Callable[..., Path], tmp_path: Path
) -> None:
    archive = tar(
        [
            link("top/lib64", "lib"),
            link("top/lib/libx.so", "libx.so.1"),
            link("top/lib/libx.so.1", "./../lib/libx.so.1.2"),
            file("top/lib/libx.so.1.2", b"elf"),
            link("top/bin/tool", "../lib64/libx.so"),
            hardlink("top/copy", "top/lib/libx.so.1.2"),
            link("top/dangling", "nowhere/yet"),
        ]
    )
    out = tmp_path / "out"
    unpack(archive, out)
    assert (out / "bin" / "tool").read_text() == "elf"
    assert (out / "lib64").readlink() == Path("lib")
    (out / "copy").write_text("changed")
    assert (out / "lib" / "libx.so.1.2").read_text() == "elf"


HOSTILE = {
    "absolute path": ([file("/tmp/evil")], "'/tmp/evil' has an absolute path"),
    "dot dot": ([file("top/../../evil")], "'top/../../evil' leads out of the folder"),
    "dot dot inside": ([file("top/a/../b")], "leads out of the folder with '..'"),
    "link to absolute": ([link("top/l", "/etc/passwd")], "'top/l' is a link out of the folder, to '/etc"),
    "link out": ([link("top/l", "../evil")], "'top/l' is a link out of the folder, to '../evil'"),
    "link far out": ([link("top/a/l", "../../../../etc")], "'top/a/l' is a link out of the folder"),
    "link out by way of a link": (
        [folder("top/a/b"), link("top/in", "a/b"), link("top/l", "in/../../../evil")],
        "'top/l' is a link out of the folder",
    ),
    "lexically inside, really outside": (
        # a/b/c/../.. is a, but c is a link to the top, so that its .. leaves the folder.
        [folder("top/a/b"), link("top/a/b/c", "../.."), link("top/l", "a/b/c/../evil")],
        "'top/l' is a link out of the folder",
    ),
    "lexically inside, outside by a later link": (
        [folder("top/a/b"), link("top/l", "a/b/c/../evil"), link("top/a/b/c", "../..")],
        "'top/l' is a link out of the folder",
    ),
    "links in circles": ([link("top/a", "b"), link("top/b", "a")], "'top/a' is a link that can't be foll"),
    "file through a link": (
        [link("top/l", "."), file("top/l/evil")],
        "'top/l/evil' is there twice, or lies under a link",
    ),
    "file over a link": ([link("top/l", "a"), file("top/l")], "'top/l' is there twice, or lies under a link"),
    "link over a file": ([file("top/l"), link("top/l", "a")], "'top/l' is there twice"),
    "file twice": ([file("top/a"), file("top/a", b"other")], "'top/a' is there twice"),
    "file as folder": ([file("top/a"), file("top/a/b")], "'top/a/b' is there twice, or is a file and"),
    "hard link out": ([hardlink("top/h", "../../etc/passwd")], "'top/h' is a hard link to"),
    "hard link absolute": ([hardlink("top/h", "/etc/passwd")], "'top/h' is a hard link to '/etc/passwd'"),
    "hard link to a link": (
        [link("top/l", "a"), hardlink("top/h", "top/l")],
        "'top/h' is a hard link to 'top/l', not a file before it",
    ),
    "hard link to later": ([hardlink("top/h", "top/a"), file("top/a")], "is a hard link to 'top/a', not a"),
    "fifo": ([special("top/pipe", tarfile.FIFOTYPE)], "'top/pipe' is not a file, folder or link"),
    "character device": ([special("top/null", tarfile.CHRTYPE)], "'top/null' is not a file, folder or link"),
    "block device": ([special("top/sda", tarfile.BLKTYPE)], "'top/sda' is not a file, folder or link"),
    "unknown type": ([special("top/x", b"Z")], "'top/x' is not a file, folder or link"),
    "no top folder": ([file("setup.py")], "'setup.py' does not lie in 1 leading folder"),
    "two top folders": ([file("one/a"), file("two/b")], "'two/b' lies outside the leading folder 'one'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_member_that_can_t_be_allowed_refuses_the_archive(
    tar: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    entries, said = HOSTILE[name]
    archive = tar([file("top/good"), *entries] if "top folder" not in name else entries)
    with pytest.raises(DownloadError) as caught:
        unpack(archive, tmp_path / "inside" / "out")
    assert said in caught.value.message
    assert caught.value.message.startswith("source.tar is not unpacked: its member ")
    assert list((tmp_path / "inside").iterdir()) == [], "nothing half-written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "source.tar"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("../evil", "", stat.S_IFREG | 0o644), "leads out of the folder"),
        (("/evil", "", stat.S_IFREG | 0o644), "has an absolute path"),
        (("top/l", "../../evil", stat.S_IFLNK | 0o777), "is a link out of the folder"),
        (("top/l", "/etc/passwd", stat.S_IFLNK | 0o777), "is a link out of the folder, to '/etc/passwd'"),
        (("top/pipe", "", stat.S_IFIFO | 0o644), "is not a file, folder or link"),
        (("top/dev", "", stat.S_IFCHR | 0o644), "is not a file, folder or link"),
    ],
)
def test_hostile_zip_files_are_refused_too(
    make_zip: Callable[..., Path], tmp_path: Path, entry: tuple[str, str, int], said: str
) -> None:
    archive = make_zip([("top/good", "fine", 0), entry])
    with pytest.raises(DownloadError) as caught:
        unpack(archive, tmp_path / "out")
    assert said in caught.value.message
    assert repr(entry[0]) in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_zip_files_link_can_t_be_longer_than_a_path(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="unable to resolve link"):
        unpack(make_zip([("top/l", "a" * 5000, stat.S_IFLNK | 0o777)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_file_of_more_than_the_limit_is_refused(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    archive = make_zip([("top/a", "x" * 600, 0), ("top/b", "x" * 600, 0)])
    unpack(archive, tmp_path / "enough", max_bytes=1200)
    with pytest.raises(DownloadError, match="makes more than 1,199 bytes"):
        unpack(archive, tmp_path / "out", max_bytes=1199)


def test_an_encrypted_zip_file_is_refused(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    archive = make_zip([("top/a", "fine", 0)])
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the central directory's flag for it
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match=r"'top/a'.* is encrypted"):
        unpack(archive, tmp_path / "out")


def test_a_zip_file_that_says_more_than_it_holds_is_refused(
    make_zip: Callable[..., Path], tmp_path: Path
) -> None:
    archive = make_zip([("top/a", "x" * 5000, 0)])
    data = bytearray(archive.read_bytes())
    size = data.index(b"PK\x01\x02") + 24  # the central directory's uncompressed size
    data[size : size + 4] = (6000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match="unexpected end of data"):
        unpack(archive, tmp_path / "out")


def test_more_than_the_limit_is_refused(tar: Callable[..., Path], tmp_path: Path) -> None:
    archive = tar([file("top/a", b"\0" * 600), file("top/b", b"\0" * 600)])
    unpack(archive, tmp_path / "enough", max_bytes=1200)
    with pytest.raises(DownloadError, match="'top/b' makes it more than 1,199 bytes"):
        unpack(archive, tmp_path / "out", max_bytes=1199)
    bomb = tar([file("top/a", b"\0" * 600), hardlink("top/h", "top/a")])
    with pytest.raises(DownloadError, match="'top/h' makes it more than 1,000 bytes"):
        unpack(bomb, tmp_path / "out", max_bytes=1000)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", ""])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.8])
def test_a_truncated_archive_is_refused_whole(
    tar: Callable[..., Path], tmp_path: Path, kind: str, share: float
) -> None:
    archive = tar([file(f"top/{number}", os.urandom(3000)) for number in range(20)], kind)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DownloadError):
        unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.tar"]


def damaged(whole: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """Yield an archive with one byte changed at each of the places, cut in many, and with more after it."""
    for at in places:
        yield whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]
    for size in range(1, len(whole), 23):
        yield whole[:size]
    yield whole + b"more"


def refused_or_the_same(archive: Path, into: Path, pieces: Iterable[bytes]) -> int:
    """Unpack each; return how many are refused, and fail if one is taken and makes a different tree."""
    whole = into.with_name("whole")
    unpack(archive, whole)
    refused = 0
    for piece in pieces:
        archive.write_bytes(piece)
        shutil.rmtree(into, ignore_errors=True)
        try:
            unpack(archive, into)
        except DownloadError:
            refused += 1
        else:
            assert tree(into) == tree(whole)
    return refused


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_a_compressed_archive_with_any_damage_is_refused_or_complete(
    tar: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    archive = tar([folder("top"), file("top/a", b"one"), file("top/b/c"), file("top/d", b"z" * 2000)], kind)
    whole = archive.read_bytes()
    pieces = [*damaged(whole, range(len(whole)))]
    # Some bytes say nothing of the content: the time and name in gzip's header.
    assert refused_or_the_same(archive, tmp_path / "out", pieces) > 0.9 * len(pieces)


def test_a_plain_archive_with_a_damaged_header_or_end_is_refused(
    tar: Callable[..., Path], tmp_path: Path
) -> None:
    archive = tar([folder("top"), file("top/a", b""), file("top/b", b"")], "")
    whole = archive.read_bytes()[: 5 * tarfile.BLOCKSIZE]  # three headers and the end
    archive.write_bytes(whole)
    pieces = [*damaged(whole, range(0, len(whole), 17))]
    assert refused_or_the_same(archive, tmp_path / "out", pieces) > 0.95 * len(pieces)


def test_a_zip_file_with_any_damage_is_refused_or_complete(
    make_zip: Callable[..., Path], tmp_path: Path
) -> None:
    archive = make_zip([("top/a", "one", 0)])
    whole = archive.read_bytes()
    modes = whole.index(b"PK\x01\x02") + 38  # nothing checks these four bytes
    places = {*range(len(whole))} - {*range(modes, modes + 4)}
    assert refused_or_the_same(archive, tmp_path / "out", damaged(whole, places)) > 0


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zip"])
def test_an_archive_that_makes_far_more_than_its_own_size_is_refused(
    tar: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    zeros = bytes(50 << 20)
    if kind == "zip":
        archive = tmp_path / "source.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("top/zeros", zeros)
    else:
        archive = tar([file("top/zeros", zeros)], kind)
    with pytest.raises(DownloadError, match="the limit for its size"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_bytes_are_refused(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    archive = make_zip([("top/a", "x" * 5000, 0)])
    data = bytearray(archive.read_bytes())
    data[40] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match="can't be unpacked"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"<html>Not Found</html>", b"PK\x03\x04 and then nothing"])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "page.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(DownloadError) as caught:
        unpack(archive, tmp_path / "out")
    assert str(archive) in caught.value.message
    assert "\n" not in caught.value.message


def test_an_archive_without_members_is_refused(tar: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"source\.tar holds no files"):
        unpack(tar([folder("top")]), tmp_path / "out")


def test_what_is_there_already_is_left_alone(tar: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    archive = tar([file("top/a")])
    unpack(archive, out)  # an empty folder is fine
    with pytest.raises(DownloadError, match="is not empty"):
        unpack(tar([file("top/b")]), out)
    assert tree(out) == {"a": "hello\n"}


def test_names_that_are_no_utf8_are_kept(tar: Callable[..., Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"top/caf\xe9")
    unpack(tar([file(name)]), tmp_path / "out")
    assert [os.fsencode(path.name) for path in (tmp_path / "out").iterdir()] == [b"caf\xe9"]


def test_a_name_too_long_for_the_file_system_is_refused(tar: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="too long"):
        unpack(tar([file("top/" + "n" * 300)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_strange_time_does_not_matter(tar: Callable[..., Path], tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/a")
    info.mtime = 10**17
    info.size = 1
    unpack(tar([(info, b"x")]), tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": "x"}


def test_the_commit_of_a_git_archive_is_read(tmp_path: Path) -> None:
    commit = "eb615cf6cf4d221338033340ee2de1c37fbdba4a"
    for comment, expected in ((commit, commit), ("a remark", "")):
        path = tmp_path / "source.tar.gz"
        with tarfile.open(
            path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": comment}
        ) as archive:
            archive.addfile(tarfile.TarInfo("top/a"))
        assert git_commit(path) == expected
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04")
    assert git_commit(tmp_path / "no.zip") == ""
