"""The series itself: complete, consistent, and its build file's decisions. Needs no upstream source."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from builder.source.patches import load_series
from builder.target.targets import build_constants, load_release

PATCHES = Path(__file__).resolve().parents[2] / "patches"
FOLDER = PATCHES / "v2.2.0"
FILES = FOLDER / "files"


def test_every_entry_is_in_the_series() -> None:
    entries = {path.name for path in FOLDER.iterdir() if re.match(r"\d{4}-", path.name)}
    assert entries == {entry.name for entry in load_series(FOLDER)}
    assert [entry.name for entry in load_series(FOLDER)] == sorted(entries)


def test_every_file_of_ours_is_added_by_an_entry() -> None:
    added = {addition.file for patch in load_series(FOLDER) for addition in patch.add}
    files = {path.relative_to(FILES).as_posix() for path in FILES.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == added


LIBRARIES = {
    "_qattn_sm80": ("csrc/qattn/register_sm80.cpp", "sageattention"),
    "_qattn_sm89": ("csrc/qattn/register_sm89.cpp", "sageattention_sm89"),
    "_qattn_sm90": ("csrc/qattn/register_sm90.cpp", "sageattention_sm90"),
    "_fused": ("csrc/fused/register.cpp", "sageattention_fused"),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_operators_are_defined_implemented_and_named_in_python(name: str) -> None:
    source, namespace = LIBRARIES[name]
    text = (FILES / source).read_text(encoding="utf-8")
    schemas = dict(re.findall(r'm\.def\(\s*"([\w.]+)\(((?:"\s*"|[^"])*)"\)', text))
    assert schemas
    assert set(schemas) == set(re.findall(r'm\.impl\("([\w.]+)"', text))
    assert set(re.findall(r"STABLE_TORCH_LIBRARY\w*\((\w+)", text)) == {namespace}
    for operator, schema in schemas.items():
        makes_its_outputs = operator in {"attention", "prepare", "no_backward"}
        marked = "(a!) output" in schema
        assert marked != makes_its_outputs, f"{operator}: what it writes to is not marked"
    module = (FILES / "sageattention" / f"{name}.py").read_text(encoding="utf-8")
    assert f'operators("{name}", "{namespace}", ' in module


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["8.9", "7.5"], "not for '7.5'"),
        (["8.9", "12.0a"], "not for '12.0a'"),
        (["9.0a", "12.0"], r"12\.0 needs CUDA 12\.8; this is 12\.4"),
        ([], "No architecture"),
    ],
)
def test_what_can_not_be_compiled_ends_the_build(build: ModuleType, asked: list[str], message: str) -> None:
    with pytest.raises(build.BuildError, match=message):
        build.checked_architectures(asked, (12, 4))


def test_each_extension_has_the_architectures_that_it_can_have(build: ModuleType) -> None:
    asked = ["8.0", "8.6", "8.9", "9.0a", "12.0"]
    assert {library.name: library.architectures(asked) for library in build.LIBRARIES} == {
        "_qattn_sm80": ["8.0", "8.6", "8.9", "9.0a", "12.0"],
        "_qattn_sm89": ["8.9", "9.0a", "12.0"],
        "_qattn_sm90": ["9.0a"],
        "_fused": ["8.0", "8.6", "8.9", "9.0a", "12.0"],
    }
    ampere = [library.name for library in build.LIBRARIES if library.architectures(["8.0"])]
    assert ampere == ["_qattn_sm80", "_fused"]


def test_the_release_lists_what_the_build_file_takes(build: ModuleType) -> None:
    architectures = [str(architecture) for architecture in load_release(FOLDER).architectures]
    assert architectures == list(build.ARCHITECTURES)
    constants = build_constants(FOLDER)
    assert (constants["ARCHITECTURES"], constants["WITH_PTX"]) == (build.ARCHITECTURES, build.WITH_PTX)


def test_what_shares_ptx_names_its_lowest_architecture(build: ModuleType) -> None:
    everything = ["8.0", "8.6", "8.9", "9.0a", "12.0"]
    units = {unit.name.split(":")[-1]: unit for library in build.LIBRARIES for unit in library.units}
    assert build._groups(units["qk_int8_sv_f16_accum_f32_attn"], everything) == [
        ["8.0", "8.6", "8.9", "9.0a"],
        ["12.0"],
    ]
    assert build._groups(units["csrc/fused/fused.cu"], everything) == [
        ["8.0", "8.6"],
        ["8.9"],
        ["9.0a"],
        ["12.0"],
    ]
    assert build._groups(units["csrc/fused/fused.cu"], ["9.0a"]) == [["9.0a"]]
