"""What a wheel says in two lines, and what it does not give away."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from made_up_provenance import TOLD

from builder.finish.provenance import describe, read_patch_files
from builder.source.series import load_series
from builder.target.project import Project
from builder.target.targets import load_targets
from builder.target.upstream import PATCHES_DIR


def test_a_stable_target_says_so() -> None:
    stable = load_targets()["abi3-cu130"]
    assert "torch 2.9 and newer" in describe(replace(TOLD, target=stable))[0]
    without = replace(TOLD, project=Project("wheels", "", ""))
    assert describe(without)[1].startswith("> Made by wheels;")


def test_the_files_of_a_series_go_into_the_wheel_and_no_others(tmp_path: Path) -> None:
    folder = PATCHES_DIR / "v2.2.0"
    clean = read_patch_files(folder, load_series(folder))
    names = [file.name for file in clean]
    assert names == sorted(names)
    assert {"series", "upstream.toml", "upstream.sha256", "0001-build.toml"} < set(names)
    assert "files/build_extensions.py" in names
    copy = Path(shutil.copytree(folder, tmp_path / "v2.2.0"))
    for name in (
        ".series.swp",
        "0001-build.toml~",
        "files/#a.py#",
        "files/__pycache__/a.pyc",
        "9999-no.patch",
    ):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"left behind")
    assert read_patch_files(copy, load_series(copy)) == clean
