"""What a wheel says in two lines, and what it does not give away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_up_provenance import TOLD

from builder.finish.provenance import PatchFile, describe, read_patch_files
from builder.target.project import Project
from builder.target.targets import load_targets


def test_a_stable_target_says_so() -> None:
    stable = load_targets()["abi3-cu130"]
    assert "torch 2.10 and newer" in describe(replace(TOLD, target=stable))[0]
    without = replace(TOLD, project=Project("wheels", "", ""))
    assert describe(without)[1].startswith("> Made by wheels;")


def test_patch_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "p" / "files" / "__pycache__").mkdir(parents=True)
    (tmp_path / "p" / "files" / "__pycache__" / "a.pyc").write_bytes(b"")
    (tmp_path / "p" / "files" / "a.py").write_text("a")
    (tmp_path / "p" / "0001-a.patch").write_text("b")
    assert read_patch_files(tmp_path / "p") == (
        PatchFile("0001-a.patch", b"b"),
        PatchFile("files/a.py", b"a"),
    )
