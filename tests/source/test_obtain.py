"""Sources to build from: the pinned release, and what a user names."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.source import COMMIT, COPIED, READ, files, make_checkout, pack, release, sums
from fakes.static_server import StaticServer, serving

from builder.source.obtain import Source, differences, fetch_release, obtain, tree_sha256
from builder.target.options import BuildOptions
from builder.target.targets import Release
from builder.util.errors import DownloadError, SourceError
from builder.util.files import file_sha256

NO_RELEASE = release({"setup.py": "0" * 64}, "http://127.0.0.1:1/none.tar.gz")
Get = Callable[..., Source]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory of the user's."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[StaticServer]:
    """A server of a folder."""
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def get(tmp_path: Path) -> Get:
    """Obtains a source, by default as an unverified one, in a scratch folder."""

    def get(source: Path | str | None, pinned: Release = NO_RELEASE, scratch: str = "scratch") -> Source:
        options = BuildOptions(source=str(source) if source else None, cache_dir=tmp_path / "cache")
        return obtain(options, pinned, tmp_path / scratch)

    return get


def test_without_source_it_is_the_verified_release(served: StaticServer, checkout: Path, get: Get) -> None:
    archive = pack(checkout, served.folder / "v2.2.0.tar.gz")
    pinned = release(sums(checkout), f"{served.url}/v2.2.0.tar.gz", file_sha256(archive))
    source = get(None, pinned)
    assert (source.kind, source.verified, source.commit) == ("release", True, COMMIT)
    assert (source.location, source.sha256, source.version) == (pinned.url, pinned.sha256, "2.2.1.dev3")
    assert files(source.tree) == READ
    archive.unlink()
    (source.tree / "setup.py").write_text("a build changed it")
    again = get(None, pinned)
    assert "version=" in (again.tree / "setup.py").read_text(), "fresh, and from the cache"


def test_wherever_the_release_comes_from_it_is_the_same(
    served: StaticServer, checkout: Path, get: Get, tmp_path: Path
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
    places = [None, checkout, tmp_path / "copy.tgz", tmp_path / "copy.zip", f"{served.url}/v2.2.0.tar.gz?a=1"]
    results = []
    for number, place in enumerate(places):
        source = get(place, pinned, str(number))
        modes = {path.relative_to(source.tree): path.stat().st_mode for path in source.tree.rglob("*")}
        results.append((replace(source, tree=Path(), obtained_from=""), tree_sha256(source.tree), modes))
        assert str(tmp_path) not in source.obtained_from
    assert results[1:] == results[:1] * 4
    assert results[0][0].verified


@pytest.mark.parametrize("change", ["differs", "is missing", "is added"])
def test_one_file_makes_it_unverified_and_is_named(
    checkout: Path, get: Get, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    pinned = release(sums(checkout), "http://127.0.0.1:1/none.tar.gz")
    path = checkout / "csrc" / ("new.h" if change == "is added" else "fused/fused.cu")
    if change == "is missing":
        path.unlink()
    else:
        path.write_text("changed")
    source = get(checkout, pinned)
    assert (source.kind, source.verified, source.tag) == ("directory", False, "")
    name = path.relative_to(checkout).as_posix()
    warning = f"the source is unverified: checkout is not release v2.2.0: {name} {change}\n"
    assert warning in capsys.readouterr().err


def test_a_directory_is_copied_without_what_builds_and_editors_leave(checkout: Path, get: Get) -> None:
    for name in (".core.py.swp", "core.py~", "#core.py#", ".#core.py", ".DS_Store"):
        (checkout / "sageattention" / name).write_text("half written")
    os.mkfifo(checkout / "csrc" / "pipe")
    (checkout / "csrc" / "gone").symlink_to("nowhere")
    (checkout / "csrc" / "up").symlink_to("..")
    source = get(checkout, scratch="checkout/tmp/scratch")
    assert (source.kind, source.location, source.version) == ("directory", "checkout", "2.2.1.dev3")
    assert files(source.tree) == COPIED
    assert source.sha256 == tree_sha256(source.tree)
    assert source.commit == ""


def test_nothing_is_ever_written_into_the_users_directory(checkout: Path, get: Get, tmp_path: Path) -> None:
    outside = tmp_path / "shared"
    outside.mkdir()
    (outside / "header.h").write_text("// shared\n")
    (checkout / "csrc" / "shared").symlink_to(outside)
    for path in (checkout, *checkout.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = sums(checkout, files(checkout) - {"csrc/shared"})
    source = get(checkout)
    for name in (*COPIED, "csrc/shared/header.h"):
        (source.tree / name).write_text("patched")
        (source.tree / name).with_name("made-by-the-build").write_text("new")
    assert sums(checkout, files(checkout) - {"csrc/shared"}) == before
    assert [path.name for path in outside.iterdir()] == ["header.h"]
    assert (outside / "header.h").read_text() == "// shared\n"
    for path in (checkout, *checkout.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_the_commit_of_a_checkout_is_kept(checkout: Path, get: Get) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", checkout], check=True)
    subprocess.run(["git", "-C", checkout, *identity, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert get(checkout).commit == head.stdout.strip()


def test_an_archive_is_unpacked_and_unverified(checkout: Path, get: Get, tmp_path: Path) -> None:
    archive = pack(checkout, tmp_path / "fork.tar.gz")
    source = get(archive)
    assert (source.kind, source.location, source.verified) == ("archive", "fork.tar.gz", False)
    assert (source.sha256, source.commit) == (file_sha256(archive), COMMIT)
    assert files(source.tree) == COPIED


def test_an_address_is_downloaded_anew_each_time_and_keeps_its_secrets(
    served: StaticServer, checkout: Path, get: Get, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(checkout, served.folder / "fork.tar.gz")
    url = f"{served.url}/fork.tar.gz?token=hush#hush".replace("://", "://me:hush@")
    source = get(url)
    assert (source.kind, source.sha256, source.verified) == ("url", file_sha256(archive), False)
    assert source.location == source.obtained_from == f"{served.url}/fork.tar.gz"
    (checkout / "setup.py").write_text("VERSION = '3.0'\n")
    pack(checkout, archive)
    assert get(url).version == "3.0"
    with pytest.raises(DownloadError) as caught:
        get(url.replace("fork", "none"))
    assert "hush" not in "".join([str(caught.value), *capsys.readouterr()])


@pytest.mark.parametrize("missing", ["setup.py", "csrc", "sageattention"])
def test_a_directory_that_is_no_sageattention_is_refused(
    checkout: Path, get: Get, tmp_path: Path, missing: str
) -> None:
    shutil.move(checkout / missing, tmp_path / "away")
    with pytest.raises(SourceError, match=f"checkout is not a source of SageAttention: {missing}"):
        get(checkout)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('setup(\n    version = "2.2.0",\n)', "2.2.0"),
        ("nvcc_cuda_version = '12.8'\nVERSION = '2.1.1'", "2.1.1"),
        ("python_version='x'\n__version__='1.0-beta2'", "1.0b2"),
        ("setup(version=get_version())", None),
    ],
)
def test_versions_are_read_from_the_text(checkout: Path, get: Get, text: str, version: str | None) -> None:
    (checkout / "setup.py").write_text(text)
    if version:
        assert get(checkout).version == version
    else:
        with pytest.raises(SourceError, match=r"setup\.py has no version as text"):
            get(checkout)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at/all", "--source /nowhere/at/all: no such directory or file"),
        ("git+https://github.com/thu-ml/SageAttention.git", "not an http or https address"),
    ],
)
def test_what_can_t_be_a_source_is_refused(get: Get, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        get(source)
    assert caught.value.remedy


Fetch = Callable[..., str]
BY_CONTENT = "content/sha256:{sha256}/raw/"


@pytest.fixture
def fetch(served: StaticServer, checkout: Path, tmp_path: Path) -> Fetch:
    """Fetches the release from these paths, checks it, and returns the path that it came from.

    The server has the pinned archive, one of something else, and each file by its content.
    """
    archive = file_sha256(pack(checkout, served.folder / "pinned.tar.gz"))
    pinned = sums(checkout)
    for name, sha256 in pinned.items():
        file = served.folder / BY_CONTENT.format(sha256=sha256) / "index.html"
        file.parent.mkdir(parents=True)
        file.write_bytes((checkout / name).read_bytes())
    (checkout / "setup.py").write_text("something else")
    pack(checkout, served.folder / "wrong.tar.gz")

    def fetch(*paths: str) -> str:
        first, *mirrors = (f"{served.url}/{path}" for path in paths)
        tree, downloads = tmp_path / "tree", tmp_path / "downloads"
        found = fetch_release(release(pinned, first, archive, *mirrors), downloads, tree)
        assert sums(tree) == pinned
        return found.removeprefix(f"{served.url}/")

    return fetch


def test_the_first_address_that_has_it_serves(fetch: Fetch, served: StaticServer) -> None:
    with pytest.raises(DownloadError, match="different SHA-256") as caught:
        fetch("wrong.tar.gz")
    assert "--source" in caught.value.remedy
    served.requests.clear()
    assert fetch("none.tar.gz", "wrong.tar.gz", "pinned.tar.gz", "never.tar.gz") == "pinned.tar.gz"
    assert served.requests == ["/none.tar.gz", "/wrong.tar.gz", "/pinned.tar.gz"]
    assert fetch("pinned.tar.gz") == "pinned.tar.gz"
    assert len(served.requests) == 3, "from the cache"


def test_each_file_can_come_by_its_content(fetch: Fetch, served: StaticServer) -> None:
    assert fetch("none.tar.gz", BY_CONTENT) == BY_CONTENT
    next(served.folder.glob("content/*/raw/index.html")).write_bytes(b"damaged")
    assert fetch(BY_CONTENT) == BY_CONTENT, "from the cache"
    shutil.rmtree(served.folder.parent / "downloads")
    with pytest.raises(DownloadError, match="404"):
        fetch("none.tar.gz", BY_CONTENT)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, True) for name in ("csrc/new/a.cu", "sageattention/more.py", "setup.cfg", "conftest.py")),
        *((name, True) for name in ("LICENCE.txt", "plugin/__init__.py", "plugin/more.txt")),
        *((name, False) for name in ("bench/bench.py", ".gitignore", "notes.txt", "assets/1.png")),
    ],
)
def test_what_is_added_counts_where_a_build_reads_it(tmp_path: Path, name: str, counts: bool) -> None:
    for path in ("setup.py", "csrc/a.cu", "sageattention/__init__.py", "plugin/__init__.py", name):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    pinned = sums(
        tmp_path, {"setup.py", "csrc/a.cu", "sageattention/__init__.py", "plugin/__init__.py"} - {name}
    )
    assert differences(tmp_path, pinned) == (f"{name} is added" if counts else "")
