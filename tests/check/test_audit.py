"""The audit: a good wheel passes, and what fails it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import (
    BUNDLED,
    EXTENSIONS,
    NAME,
    NATIVE,
    RUNTIME,
    STABLE,
    TARGETS,
    found,
    only_error,
    ours,
    raw_wheel,
    stable,
    tamper,
    told,
)
from made_up_libraries import Elf, fatbin, make_elf, pack_wheel

from builder.check.audit import CHECKS, UNPATCHED, audit_wheel, main, target_of
from builder.finish.finalize import finalize
from builder.util.errors import AuditError, UsageError


def test_a_good_wheel_passes_with_nothing_to_say(tmp_path: Path) -> None:
    report = audit_wheel(ours(tmp_path), expect=NATIVE)
    assert found(report) == found(report, "warning") == []
    assert report.passed
    assert report.checks == tuple(CHECKS)
    report.raise_if_failed()
    assert report.facts is not None
    assert report.facts.torch_requirement == "torch==2.11.*"
    assert report.facts.torch_symbols == ("aoti_torch_get_sizes", "aoti_torch_library_impl")
    assert report.facts.unstable_symbols == 0
    assert report.facts.architectures["_qattn_sm89"] == ("8.9", "9.0a", "12.0", "PTX 8.9")
    assert report.facts.needs == {"libcudart.so.13": "the CUDA runtime", "libtorch_cpu.so": "torch"}


def test_a_good_pep_600_wheel_passes(tmp_path: Path) -> None:
    inside = replace(
        EXTENSIONS["_fused"],
        needed=["libtorch_cpu.so", "libcudart-12345678.so.13"],
        rpath="$ORIGIN/../../sageattention.libs",
    )
    files = {RUNTIME: make_elf(Elf(soname="libcudart-12345678.so.13"))}
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    wheel = raw_wheel(tmp_path, name, dict.fromkeys(EXTENSIONS, inside) | only_archs(inside), files=files)
    made = finalize(wheel, told(), tmp_path / "ours", bundled=[BUNDLED], runtime_license=b"terms")
    report = audit_wheel(made, expect=NATIVE)
    assert found(report) == found(report, "warning") == []


def only_archs(base: Elf) -> dict[str, Elf]:
    return {stem: replace(base, fatbin=elf.fatbin) for stem, elf in EXTENSIONS.items()}


def test_a_good_stable_wheel_passes(tmp_path: Path) -> None:
    report = audit_wheel(stable(tmp_path), expect=STABLE)
    assert found(report) == found(report, "warning") == []


def test_the_full_wheel_that_aborts_the_interpreter(tmp_path: Path) -> None:
    """The shape that `auditwheel repair` makes of upstream's wheel with nothing excluded but the driver."""
    bundled = {
        f"sageattention.libs/{name}": make_elf(Elf(soname=name, fatbin=fatbin("75")))
        for name in (
            "libtorch_cpu-0e1a2b3c.so",
            "libc10-0e1a2b3c.so",
            "libcublas-0e1a2b3c.so.13",
            RUNTIME[19:],
        )
    }
    extension = Elf(["libtorch_cpu-0e1a2b3c.so", "libc10-0e1a2b3c.so", "libcuda.so.1"], fatbin=fatbin("90a"))
    name = "sageattention-2.2.0-cp312-cp312-manylinux_2_34_x86_64.whl"
    wheel = raw_wheel(tmp_path, name, {"_qattn_sm90": extension}, (), bundled)
    report = audit_wheel(wheel)
    errors = [text for text in found(report) if text.startswith("bundled:")]
    assert len(errors) == 1
    assert "it contains its own torch, so importing it aborts the interpreter: " in errors[0]
    assert "libtorch_cpu-0e1a2b3c.so, libc10-0e1a2b3c.so (" in errors[0]
    assert report.facts is not None
    assert report.facts.architectures == {"_qattn_sm90": ("9.0a",)}
    warnings = found(report, "warning")
    assert any("it contains second copies: libcublas-0e1a2b3c.so.13 (" in text for text in warnings)
    with pytest.raises(AuditError, match=r"(?s)failed its audit.*aborts the interpreter"):
        report.raise_if_failed()


def test_somebody_elses_wheel_is_judged_and_not_a_crash(tmp_path: Path) -> None:
    """Upstream's own: pybind, no local version, no requirement, debug sections, paths of the builder."""
    elf = Elf(
        ["libc10.so", "libtorch_python.so", "libcuda.so.1"],
        undefined=["_ZN3c105ErrorC1E", "PyObject_Call"],
        fatbin=fatbin("90a"),
        debug=True,
        data=b"/home/someone/build/torch/include/ATen/Tensor.h\0",
    )
    files = {f"sageattention/{stem}.cpython-312-x86_64-linux-gnu.so": make_elf(elf) for stem in EXTENSIONS}
    wheel = pack_wheel(tmp_path, "sageattention-2.2.0-cp312-cp312-linux_x86_64.whl", files)
    report = audit_wheel(wheel)
    assert only_error(report).startswith("requirement: uses 4 symbols of libtorch's C++ interface")
    warnings = "\n".join(found(report, "warning"))
    for part in (
        "libraries: _fused.cpython-312-x86_64-linux-gnu.so needs libcuda.so.1: it can't be imported",
        "version: it contains code only for 9.0a, and its version doesn't say so (no 8.0, 8.6, 8.9, 12.0)",
        "version: the version 2.2.0 doesn't say which CUDA it is for",
        "version: the version 2.2.0 doesn't say which torch it is for",
        "sbom: it contains no SBOM",
        "licence: METADATA has no License-Expression",
        "1 path of the machine that built it: /home/someone/build/torch/include/ATen/Tensor.h",
        "debug: _qattn_sm90.cpython-312-x86_64-linux-gnu.so has debug sections (.debug_info",
    ):
        assert part in warnings


def test_house_rules_are_errors_in_our_wheels_only(tmp_path: Path) -> None:
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], debug=True))
    assert only_error(audit_wheel(wheel)).startswith("debug: _fused.so has debug sections")
    report = audit_wheel(wheel, house_rules=False)
    assert report.passed
    assert len(found(report, "warning")) == 1


def test_waived_checks_are_warnings(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, metadata=["Requires-Dist: torch"])
    plain = audit_wheel(wheel, expect=NATIVE)
    assert only_error(plain) == "requirement: requires torch, and the target says torch==2.11.*"
    waived = audit_wheel(wheel, expect=NATIVE, waive=UNPATCHED)
    assert waived.passed
    assert "requirement: requires torch, and the target says torch==2.11.*" in found(waived, "warning")
    with pytest.raises(UsageError, match="No check nonsense"):
        audit_wheel(wheel, waive=["nonsense"])


def test_no_wheel_at_all(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"PK")
    report = audit_wheel(path)
    assert "can't be read as a wheel" in only_error(report)
    assert report.facts is None


def test_the_target_is_found_by_the_sbom(tmp_path: Path) -> None:
    assert target_of(ours(tmp_path), TARGETS.values()) == NATIVE
    assert target_of(raw_wheel(tmp_path), TARGETS.values()) is None
    assert target_of(tmp_path / "absent.whl", TARGETS.values()) is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = ours(tmp_path)
    assert main([str(wheel)]) == 0
    assert "1 checked, 0 failed" in capsys.readouterr().out
    tamper(wheel, "core.py", b"")
    assert main([str(wheel.parent)]) == AuditError.exit_code
    assert "1 checked, 1 failed" in capsys.readouterr().out
    assert main([str(wheel), "--waive", "record", "--waive", "sbom"]) == 0
    capsys.readouterr()
    assert main([str(wheel), "--json"]) == AuditError.exit_code
    (report,) = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["findings"][0]["check"] == "record"
    with pytest.raises(UsageError, match="nrecognized arguments: --nonsense"):
        main(["--nonsense"])
    with pytest.raises(UsageError, match="not found"):
        main([str(tmp_path / "absent.whl")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no wheel to check"):
        main([str(tmp_path / "empty")])
