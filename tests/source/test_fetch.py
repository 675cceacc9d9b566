"""The release comes from the first of its addresses that has it; its content decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.source import pack, release, sums
from fakes.static_server import StaticServer

from builder.source.obtain import fetch_release
from builder.util.errors import DownloadError
from builder.util.files import file_sha256

Fetch = Callable[..., str]
BY_CONTENT = "content/sha256:{sha256}/raw/"


@pytest.fixture
def fetch(served: StaticServer, checkout: Path, tmp_path: Path) -> Fetch:
    """Fetches the release from these paths, checks it, and returns the path that it came from.

    The server has the pinned archive, one that is compressed in another way, one of something else, and each
    file by its content.
    """
    archive = file_sha256(pack(checkout, served.folder / "pinned.tar.gz"))
    pack(checkout, served.folder / "again.tar.gz", level=1)
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
    assert fetch("none.tar.gz", "pinned.tar.gz", "never.tar.gz") == "pinned.tar.gz"
    assert served.requests == ["/none.tar.gz", "/pinned.tar.gz"]
    assert fetch("pinned.tar.gz") == "pinned.tar.gz"
    assert len(served.requests) == 2, "from the cache"


def test_an_archive_that_was_compressed_again_is_used_with_a_warning(
    fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("again.tar.gz") == "again.tar.gz"
    warned = capsys.readouterr().err
    assert "again.tar.gz has a different SHA-256: expected" in warned
    assert "Its files are those of release v2.2.0, so it is used." in warned
    assert not list((tmp_path / "downloads").glob("*.gz")), "the cache keeps what is pinned only"


def test_an_archive_with_different_files_is_never_used(fetch: Fetch, served: StaticServer) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch("wrong.tar.gz")
    assert "wrong.tar.gz is not release v2.2.0: setup.py differs." in caught.value.message
    assert "--source" in caught.value.remedy
    assert fetch("wrong.tar.gz", "again.tar.gz") == "again.tar.gz"


def test_each_file_can_come_by_its_content(fetch: Fetch, served: StaticServer) -> None:
    assert fetch("none.tar.gz", BY_CONTENT) == BY_CONTENT
    damaged = next(served.folder.glob("content/*/raw/index.html"))
    damaged.write_bytes(b"damaged")
    assert fetch(BY_CONTENT) == BY_CONTENT, "from the cache"


def test_a_file_that_is_not_what_it_is_called_is_refused(fetch: Fetch, served: StaticServer) -> None:
    next(served.folder.glob("content/*/raw/index.html")).write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=r"404.* No mirror has it either\."):
        fetch("none.tar.gz", BY_CONTENT)


def test_a_damaged_archive_does_not_stop_the_search(fetch: Fetch, served: StaticServer) -> None:
    whole = (served.folder / "again.tar.gz").read_bytes()
    (served.folder / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert fetch("cut.tar.gz", "pinned.tar.gz") == "pinned.tar.gz"
