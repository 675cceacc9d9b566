"""Folders are made once, wholly, and anew when they are not or their inputs changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tools import wait_for

from builder.toolchain.torch_env import is_made, make_folder
from builder.util.files import ROOT


def fill(new: Path) -> None:
    new.mkdir()
    (new / "a").write_text("whole")


def test_a_folder_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    assert [make_folder(folder, inputs, fill) for inputs in "1122"] == [True, False, True, False]
    assert is_made(folder, "2")
    (folder / ".made-from").unlink()
    (folder / "b").touch()
    assert make_folder(folder, "2", fill)
    assert not (folder / "b").exists()


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        fill(new)
        raise OSError("disk full")

    make_folder(tmp_path / "folder", "1", fill)
    with pytest.raises(OSError, match="disk full"):
        make_folder(tmp_path / "folder", "2", fail)
    assert is_made(tmp_path / "folder", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".folder.lock"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from builder.toolchain.torch_env import make_folder\n"
        "def fill(new): new.mkdir(); (new / 'b').touch(); time.sleep(300)\n"
        "make_folder(Path(sys.argv[1]), '1', fill)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "folder")], cwd=ROOT) as process:
        assert wait_for(lambda: any(tmp_path.glob(".folder.*.part/folder/b")))
        process.kill()
    assert make_folder(tmp_path / "folder", "1", fill)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".folder.lock"}
    assert not (tmp_path / "folder" / "b").exists()
