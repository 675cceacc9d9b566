"""What is written appears whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from builder.util.files import ROOT, beside, write


def test_a_file_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("old")
    (tmp_path / "linked").hardlink_to(path)
    write(path, "new")
    assert (path.read_text(), (tmp_path / "linked").read_text()) == ("new", "old")


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for text in ("first", "second"):
        with beside(site) as new:
            new.mkdir()
            (new / text).write_text(text)
    assert [path.name for path in site.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_link_to_a_folder_is_replaced_and_the_folder_is_not(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with beside(tmp_path / "link") as new:
            new.symlink_to(tmp_path / name)
    assert (tmp_path / "link").readlink() == tmp_path / "two"
    assert (tmp_path / "one").is_dir()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", "from", None, "to")],
)
def test_after_an_error_all_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), beside(path) as new:
        raise error if new.write_text("half") else AssertionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert getattr(error, "filename", str(path)) == str(path)


def test_a_folder_that_could_not_be_replaced_is_still_there(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "old").write_text("old")
    with pytest.raises(FileNotFoundError), beside(site):
        pass  # nothing is made that could replace it
    assert (site / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [site]


def test_no_lock_is_held_twice(tmp_path: Path) -> None:
    """Each process adds 1 to a number in a file; where two had the lock, one addition would be lost."""
    code = (
        "import sys; from pathlib import Path; from builder.util.files import locked\n"
        "number = Path(sys.argv[1]) / 'number'\n"
        "for _ in range(100):\n"
        "    with locked(number.with_name('lock'), lambda: None):\n"
        "        number.write_text(str(int(number.read_text()) + 1))\n"
    )
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert (tmp_path / "number").read_text() == "400"
