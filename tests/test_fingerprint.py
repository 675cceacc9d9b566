"""A change of anything that can change a wheel changes the fingerprint, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.provenance import RELEASE, SOURCE, TARGET

from builder.build import BUILDER, Job, code_digests, make_fingerprint
from builder.target.architectures import Architecture, Selection
from builder.target.options import BuildOptions
from builder.target.project import Project
from builder.toolchain.gxx import Gxx

JOB = Job(
    target=TARGET,
    selection=Selection((Architecture(8, 0), Architecture(9, 0, "a")), "all", complete=True),
    options=BuildOptions(cache_dir=Path("/cache")),
    release=RELEASE,
    series=(),
    patches={"0001-build.toml": b"1", "series": b"0001-build.toml\n"},
    project=Project("wheels", "https://example.org/wheels", "f" * 40),
    work=Path("/work"),
    check_client_calls=True,
    hash_seed=0,
    cuda_version="13.0",
    gxx=Gxx(Path("/bin/sh"), "12.2.0"),
)
FORK = replace(SOURCE, kind="directory", tag="")
COUNTED_OPTIONS = {"cuda_home", "torch_index"}


def fingerprint(source: Any = None, **changes: Any) -> str:
    return make_fingerprint(replace(JOB, **changes), source)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": replace(TARGET, torch="2.12.0")},
        {"target": replace(TARGET, platform_tag="manylinux_2_28_x86_64")},
        {"target": replace(TARGET, toolchain_packages=("cuda-toolkit[nvcc]==13.0.3",))},
        {"selection": Selection((Architecture(8, 0),), "all", complete=True)},
        {"options": BuildOptions(cache_dir=Path("/cache"), cuda_home=Path("/opt/cuda"))},
        {"options": BuildOptions(cache_dir=Path("/cache"), torch_index="https://example.org")},
        {"release": replace(RELEASE, commit="1" * 40)},
        {"release": replace(RELEASE, files={"setup.py": "1" * 64})},
        {"release": replace(RELEASE, source_date_epoch=1)},
        {"source": FORK},
        {"source": replace(FORK, sha256="e" * 64)},
        {"source": replace(FORK, location="x")},
        {"source": replace(FORK, commit="x")},
        {"patches": {}},
        {"patches": {**JOB.patches, "files/new.py": b""}},
        {"patches": {**JOB.patches, "0001-build.toml": b"2"}},
        {"project": Project("mine", "https://example.org/wheels", "f" * 40)},
        {"project": Project("wheels", "https://example.org/mine", "f" * 40)},
        {"cuda_version": "13.0.48"},
        {"gxx": Gxx(Path("/bin/sh"), "12.2.1")},
        {"gxx": Gxx(Path("/bin/cat"), "12.2.0")},
    ],
)
def test_what_decides_the_wheels_counts(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) != fingerprint()


def test_places_speed_and_the_revision_do_not_count() -> None:
    others: dict[str, Any] = {
        field.name: "different" for field in fields(BuildOptions) if field.name not in COUNTED_OPTIONS
    }
    assert fingerprint(options=replace(JOB.options, **others)) == fingerprint()
    assert fingerprint(source=replace(SOURCE, obtained_from="a mirror")) == fingerprint()
    assert fingerprint(project=replace(JOB.project, revision="0" * 40)) == fingerprint()
    assert fingerprint(work=Path("/x"), hash_seed=1, check_client_calls=False) == fingerprint()
    assert fingerprint(selection=replace(JOB.selection, reason="asked for")) == fingerprint()


def test_code_counts_if_it_comes_before_the_finished_wheel() -> None:
    counted = {path.partition("/")[0] for path in code_digests(BUILDER)}
    folders = {"util", "target", "wheel", "source", "toolchain", "compile", "finish"}
    assert counted == folders | {"__init__.py", "build.py", "requirements.txt"}
    assert "target/project.toml" in code_digests(BUILDER)
