"""Which architectures each extension holds, and which it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import ALL, EXTENSIONS, NAME, NATIVE, found, only_error, ours, raw_wheel, told
from made_up_libraries import Elf, container, entry, fatbin

from builder.check.audit import audit_wheel
from builder.check.audit_report import table
from builder.check.checks.gpu_code import expected_architectures
from builder.finish.finalize import finalize
from builder.target.architectures import Architecture


def test_a_missing_architecture(tmp_path: Path) -> None:
    wheel = ours(
        tmp_path, _qattn_sm89=replace(EXTENSIONS["_qattn_sm89"], fatbin=fatbin("89", "90a", ptx="89"))
    )
    assert (
        only_error(audit_wheel(wheel, expect=NATIVE)) == "architectures: _qattn_sm89.so has no cubin for 12.0"
    )


def test_newer_gpus_need_ptx(tmp_path: Path) -> None:
    wheel = ours(tmp_path, _qattn_sm80=replace(EXTENSIONS["_qattn_sm80"], fatbin=fatbin(*ALL, ptx="89")))
    assert only_error(audit_wheel(wheel, expect=NATIVE)) == (
        "architectures: _qattn_sm80.so has no PTX for 8.0 of the 1. of its source files, "
        "so newer GPUs can't run it"
    )


def test_sm_90_is_not_sm_90a(tmp_path: Path) -> None:
    wheel = ours(tmp_path, _qattn_sm90=replace(EXTENSIONS["_qattn_sm90"], fatbin=fatbin("90")))
    errors = found(audit_wheel(wheel, expect=NATIVE))
    assert "architectures: _qattn_sm90.so has no cubin for 9.0a" in errors


def test_a_missing_extension(tmp_path: Path) -> None:
    rest = {stem: elf for stem, elf in EXTENSIONS.items() if stem != "_qattn_sm80"}
    made = finalize(raw_wheel(tmp_path, extensions=rest), told(), tmp_path / "ours")
    assert (
        only_error(audit_wheel(made, expect=NATIVE)) == "architectures: the extension _qattn_sm80 is missing"
    )


def test_a_wheel_for_some_architectures_says_so(tmp_path: Path) -> None:
    some = {
        stem: replace(EXTENSIONS[stem], fatbin=fatbin("89", ptx="89"))
        for stem in ("_fused", "_qattn_sm80", "_qattn_sm89")
    }
    provenance = replace(told(), architectures=(Architecture(8, 9),))
    silent = finalize(raw_wheel(tmp_path, extensions=some), provenance, tmp_path / "ours")
    assert only_error(audit_wheel(silent, expect=NATIVE)) == (
        "version: the version 2.2.0+cu130.torch2.11 should end in +cu130.torch2.11.sm89, "
        "by its target and its cubins"
    )
    name = NAME.replace("torch2.11", "torch2.11.sm89")
    honest = finalize(raw_wheel(tmp_path, name, some), provenance, tmp_path / "ours")
    assert audit_wheel(honest, expect=NATIVE).passed
    assert audit_wheel(honest).passed
    lying = raw_wheel(tmp_path, NAME.replace("torch2.11", "torch2.11.sm89.sm90a"), some)
    errors = found(audit_wheel(lying))
    assert "architectures: no extension has a cubin for 9.0a" in errors
    assert "architectures: the extension _qattn_sm90 is missing" in errors


def test_debugging_code_for_the_gpu_and_ptx(tmp_path: Path) -> None:
    section = container(*(entry(number) for number in ALL), entry("80", debug=True), entry("80", "ptx"))
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], fatbin=section))
    report = audit_wheel(wheel, expect=NATIVE)
    assert only_error(report).startswith("architectures: _fused.so has GPU code made for a debugger")
    assert "      _fused         8.0 8.6 8.9 9.0a 12.0 PTX 8.0" in table([report]).splitlines()


def test_no_gpu_code(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, extensions={"_other": Elf()})
    assert "architectures: no library in it contains GPU code" in found(audit_wheel(wheel))


@pytest.mark.parametrize(
    ("name", "claimed", "expected"),
    [
        ("_qattn_sm80", "8.0 9.0a", "8.0 9.0a"),
        ("_qattn_sm89", "8.0 8.6", ""),
        ("_qattn_sm89", "8.0 8.9 12.0", "8.9 12.0"),
        ("_qattn_sm90", "8.9 9.0a 12.0", "9.0a"),
        ("_qattn_sm90", "8.9 12.0", ""),
    ],
)
def test_what_an_extension_must_hold(name: str, claimed: str, expected: str) -> None:
    claims = list(map(Architecture.parse, claimed.split()))
    assert expected_architectures(name, claims) == frozenset(map(Architecture.parse, expected.split()))
    assert expected_architectures("_other", claims) is None
