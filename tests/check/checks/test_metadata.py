"""Names, versions and requirements that don't fit the wheel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import EXTENSIONS, NAME, STABLE, STABLE_NAME, found, only_error, raw_wheel, stable
from packaging.specifiers import SpecifierSet

from builder.check.audit import audit_wheel
from builder.check.checks.metadata import pinned_series

UNSTABLE = [
    "_ZN2at6detail10noopDeleteEPv",
    "_ZNK3c1010TensorImpl5sizesEv",
    "_ZN5torch8autograd3goEv",
    "_Z3fooRKN2at6TensorE",
]


def test_names_that_disagree(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path)
    other = wheel.rename(
        wheel.with_name(NAME.replace("2.2.0", "2.2.1").replace("cp312-cp312", "cp311-cp311"))
    )
    errors = found(audit_wheel(other, house_rules=False))
    assert (
        "names: METADATA has the version 2.2.0+cu130.torch2.11 and the file name has 2.2.1+cu130.torch2.11"
        in errors
    )
    assert any(
        "names: the file WHEEL has the tags cp312-cp312-linux_x86_64, unlike" in text for text in errors
    )
    assert any(
        "Requires-Python: ==3.12.* excludes the Python of its own tag, cp311" in text for text in errors
    )


def test_what_it_installs_beside_the_package(tmp_path: Path) -> None:
    report = audit_wheel(raw_wheel(tmp_path, files={"tests/__init__.py": b""}))
    assert "names: it installs tests beside sageattention" in found(report, "warning")


@pytest.mark.parametrize("symbol", UNSTABLE)
def test_a_stable_wheel_may_not_take_torchs_cxx_interface(tmp_path: Path, symbol: str) -> None:
    wheel = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], undefined=[symbol]))
    assert only_error(audit_wheel(wheel, expect=STABLE)) == (
        "requirement: _fused.so uses symbols of libtorch's C++ interface, "
        f"which a stable wheel may not use: {symbol}"
    )


def test_a_stable_wheel_may_not_need_libtorch_python(tmp_path: Path) -> None:
    wheel = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], needed=["libtorch_python.so"]))
    assert only_error(audit_wheel(wheel, expect=STABLE)) == (
        "requirement: _fused.so needs libtorch_python.so, which is built for one Python"
    )


def test_a_stable_wheel_may_take_the_limited_api_only(tmp_path: Path) -> None:
    pytest.importorskip("abi3info")
    good = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], undefined=["PyType_FromSpec"]))
    assert audit_wheel(good, expect=STABLE).passed
    bad = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], undefined=["_PyThreadState_UncheckedGet"]))
    assert only_error(audit_wheel(bad, expect=STABLE)) == (
        "requirement: _fused.so uses what CPython's limited API of 3.10 lacks: _PyThreadState_UncheckedGet"
    )


def test_a_stable_wheel_without_its_oldest_torch(tmp_path: Path) -> None:
    errors = found(audit_wheel(stable(tmp_path, ["Requires-Dist: torch"])))
    assert "requirement: requires torch, without the oldest torch whose stable interface it uses" in errors
    report = audit_wheel(stable(tmp_path, ["Requires-Dist: torch==2.11.*"]))
    assert "requirement: requires torch==2.11.*: one torch only, though its ABI is stable" in found(
        report, "warning"
    )


def test_the_oldest_torch_has_every_function_that_is_used(tmp_path: Path) -> None:
    names = ["aoti_torch_get_sizes", "torch_library_impl", "torch_of_tomorrow"]
    wheel = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], undefined=names))
    newer = "_fused.so uses torch_library_impl, which torch has from 2.10 on, and the wheel is for 2.9 too"
    unknown = "_fused.so uses what is not known of torch's C interface: torch_of_tomorrow"
    assert found(audit_wheel(wheel, expect=STABLE)) == [f"requirement: {newer}", f"requirement: {unknown}"]
    native = raw_wheel(
        tmp_path, extensions={**EXTENSIONS, "_fused": replace(EXTENSIONS["_fused"], undefined=names[:2])}
    )
    assert audit_wheel(native).passed


def test_a_version_that_disagrees_with_the_abi(tmp_path: Path) -> None:
    wheel = raw_wheel(
        tmp_path, STABLE_NAME.replace("universal", "torch2.11"), metadata=["Requires-Dist: torch>=2.10"]
    )
    errors = found(audit_wheel(wheel))
    assert "version: the version 2.2.0+cu130.torch2.11 disagrees with the tag's ABI, abi3" in errors


def test_a_native_wheel_that_takes_cxx_symbols_pins_torch(tmp_path: Path) -> None:
    elf = replace(EXTENSIONS["_fused"], undefined=UNSTABLE)
    for requirement, fails in (
        ("torch==2.11.*", False),
        ("torch~=2.11.0", False),
        ("torch>=2.11", True),
        ("numpy", True),
    ):
        wheel = raw_wheel(
            tmp_path, extensions={**EXTENSIONS, "_fused": elf}, metadata=[f"Requires-Dist: {requirement}"]
        )
        assert audit_wheel(wheel).passed is not fails, requirement
    other = raw_wheel(
        tmp_path, extensions={**EXTENSIONS, "_fused": elf}, metadata=["Requires-Dist: torch==2.10.*"]
    )
    assert only_error(audit_wheel(other)) == "requirement: requires torch 2.10 and its version says 2.11"


@pytest.mark.parametrize(
    ("text", "series"),
    [
        ("==2.11.*", "2.11"),
        ("==2.11.0", "2.11"),
        ("~=2.11.0", "2.11"),
        ("~=2.11", ""),
        (">=2.11", ""),
        ("==2.*", ""),
        ("", ""),
    ],
)
def test_pins(text: str, series: str) -> None:
    assert pinned_series(SpecifierSet(text)) == series
