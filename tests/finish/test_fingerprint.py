"""A change of anything that can change a wheel changes the fingerprint, and nothing else does."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import made_up_tools
import pytest
from made_up_provenance import SOURCE

from builder.finish.fingerprint import BUILDER, code_digests, make_fingerprint
from builder.finish.provenance import PatchFile
from builder.target.architectures import Architecture
from builder.target.options import BuildOptions
from builder.target.project import Project
from builder.target.selection import Selection
from builder.target.upstream import PATCHES_DIR, load_release

SELECTION = Selection((Architecture(8, 0), Architecture(9, 0, "a")), "all", complete=True)
INPUTS: dict[str, Any] = {
    "target": made_up_tools.target(),
    "selection": SELECTION,
    "options": BuildOptions(cache_dir=Path("/cache")),
    "release": load_release(PATCHES_DIR / "v2.2.0"),
    "source": None,
    "patches": (PatchFile("0001-build.toml", b"1"), PatchFile("series", b"0001-build.toml\n")),
    "project": Project("wheels", "https://example.org/wheels", "f" * 40),
    "cuda_version": "13.0",
    "host_compiler": "12.2.0-" + "a" * 64,
}
FILES = sorted(
    path.relative_to(BUILDER).as_posix()
    for path in BUILDER.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
)
AFTER = ("smoketest/", "check/", "publish/", "__main__.py", "preflight.py", "reproduce.py")


def fingerprint(**changes: Any) -> str:
    return make_fingerprint(**{**INPUTS, **changes})


def changed(part: str, /, **changes: Any) -> str:
    return fingerprint(**{part: replace(INPUTS[part], **changes)})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("target", {"torch": "2.12.0"}),
        ("target", {"torch_minimum": "2.10"}),
        ("target", {"platform_tag": "manylinux_2_28_x86_64"}),
        ("target", {"toolchain_packages": ("cuda-toolkit[nvcc]==13.0.3",)}),
        ("selection", {"architectures": (Architecture(8, 0),)}),
        ("options", {"cuda_home": Path("/opt/cuda")}),
        ("options", {"torch_index": "https://example.org"}),
        *(
            ("release", {name: value})
            for name, value in {
                "version": "2.2.1",
                "tag": "v2.2.1",
                "commit": "1" * 40,
                "url": "https://example.org/a.tar.gz",
                "sha256": "1" * 64,
                "files": {"setup.py": "1" * 64},
                "source_date_epoch": 1,
                "license": "MIT",
            }.items()
        ),
        ("project", {"name": "mine"}),
        ("project", {"url": "https://example.org/mine"}),
    ],
)
def test_what_decides_the_wheels_counts(name: str, changes: dict[str, Any]) -> None:
    assert changed(name, **changes) != fingerprint()


def test_source_patches_and_host_compiler_count() -> None:
    added = (*INPUTS["patches"], PatchFile("files/new.py", b""))
    edited = (PatchFile("0001-build.toml", b"2"), INPUTS["patches"][1])
    fork = replace(SOURCE, kind="directory", tag="")
    different = {
        fingerprint(),
        *(fingerprint(source=source) for source in (fork, replace(fork, sha256="e" * 64))),
        *(fingerprint(source=source) for source in (replace(fork, location="x"), replace(fork, commit="x"))),
        fingerprint(host_compiler="12.2.1-" + "a" * 64),
        fingerprint(cuda_version="13.0.48"),
        *(fingerprint(patches=patches) for patches in ((), added, edited)),
    }
    assert len(different) == 10


def test_places_speed_and_the_revision_do_not_count() -> None:
    counted = {"cuda_home", "torch_index"}
    ignored = {
        "source": "a copy of the release",
        "cuda_home_from": "CUDA_HOME",
        "cache_dir": Path("/elsewhere"),
        "wheelhouse": Path("/wheels"),
        "cache_size": "1G",
        "machine_root": Path("/root-of-arm"),
        "arch": "all",
        "jobs": 3,
        "cache": False,
        "cache_remote": "redis://cache.example",
        "cache_secret": "secret",
        "cache_remote_read_only": True,
        **dict.fromkeys(("no_patches", "allow_cuda_minor", "check", "force", "keep_build", "verbose"), True),
    }
    assert counted | ignored.keys() == {field.name for field in fields(BuildOptions)}
    assert changed("options", **ignored) == fingerprint()
    assert fingerprint(source=SOURCE) == fingerprint(source=replace(SOURCE, obtained_from="a mirror"))
    assert fingerprint(source=SOURCE) == fingerprint()
    assert changed("project", revision="0" * 40) == fingerprint()
    assert changed("selection", reason="asked for") == fingerprint()


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the builder, to change."""
    return Path(shutil.copytree(BUILDER, tmp_path_factory.mktemp("copy") / "builder"))


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_counts_if_it_comes_before_the_finished_wheel(copied: Path, name: str) -> None:
    path, before = copied / name, code_digests(copied)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        assert (code_digests(copied) == before) is name.startswith(AFTER)
    finally:
        path.write_bytes(content)


def test_a_new_file_in_a_new_folder_counts(copied: Path) -> None:
    before = code_digests(copied)
    (copied / "polish").mkdir()
    (copied / "polish" / "shine.py").write_text("")
    assert code_digests(copied) != before


def test_the_pins_of_the_builds_tools_and_every_step_are_among_the_files() -> None:
    assert {"requirements.txt", "pipeline.py", "target/project.toml"} <= set(FILES)
    steps = {name.partition("/")[0] for name in FILES if "/" in name}
    assert steps == {
        *("util", "target", "source", "toolchain", "compile", "wheel", "finish"),
        *("smoketest", "check", "publish"),
    }
