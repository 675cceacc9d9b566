"""The audit: good wheels pass, and each mistake is found by the check that is for it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.audited import (
    ALL,
    GOOD,
    NATIVE,
    STABLE,
    STABLE_NAME,
    TORCH,
    Library,
    changed,
    fatbin,
    findings,
    ours,
    raw_wheel,
    universal,
)
from fakes.libraries import INFO, NAME, compile_library, container, entry, pack_wheel
from fakes.provenance import PROVENANCE

from builder.check.audit import audit_wheel, main, table
from builder.check.checks import CHECKS
from builder.finish.embed import embed
from builder.finish.store import record_path
from builder.target.architectures import Architecture
from builder.util.errors import AuditError, UsageError
from builder.util.files import file_sha256

CXX = "_ZN3c105ErrorC1E"  # of libtorch's C++ interface
FUSED = "sageattention/lib/_fused.so"
PAD = "aoti_torch_aten_pad"  # in torch 2.9 and later


def assert_found(expected: str, errors: list[str]) -> None:
    assert any(text.startswith(expected) for text in errors), errors


def replace_member(wheel: Path, name: str, data: bytes) -> None:
    """Replace one member and nothing else, as a mistake does."""
    with zipfile.ZipFile(wheel) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    members[name] = data
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def test_a_good_wheel_passes_with_nothing_to_say(tmp_path: Path) -> None:
    report = audit_wheel(ours(tmp_path), expect=NATIVE)
    assert report.errors == findings(report, "warning") == []
    assert report.checks == tuple(CHECKS)
    facts = report.facts
    assert facts is not None
    assert facts["torch_requirement"] == "torch==2.11.*"
    assert facts["torch_symbols"] == [*TORCH]
    assert facts["unstable_symbols"] == 0
    assert facts["architectures"]["_qattn_sm89"] == ("8.9", "9.0a", "12.0", "PTX 8.9")
    assert facts["needs"] == {"libcudart.so.13": "the CUDA runtime", "libtorch_cpu.so": "torch"}
    assert "      torch          torch==2.11.*; 2 symbols of torch's stable interface" in table(report)
    assert "      _fused         8.0 8.6 8.9 9.0a 12.0 PTX 8.0" in table(report).splitlines()


def test_a_good_universal_wheel_passes(tmp_path: Path) -> None:
    report = audit_wheel(universal(tmp_path), expect=STABLE)
    assert report.errors == findings(report, "warning") == []


def test_the_full_wheel_that_aborts_the_interpreter(tmp_path: Path) -> None:
    """The shape that `auditwheel repair` makes of upstream's wheel with nothing excluded but the driver."""
    names = ("libtorch_cpu-0e1a2b3c.so", "libc10-0e1a2b3c.so", "libcublas-0e1a2b3c.so.13")
    files = {f"sageattention.libs/{name}": compile_library(tmp_path / name).read_bytes() for name in names}
    extension = Library((*names[:2], "libcuda.so.1"), (), fatbin("90a"))
    name = "sageattention-2.2.0-cp312-cp312-manylinux_2_34_x86_64.whl"
    report = audit_wheel(raw_wheel(tmp_path, {"_qattn_sm90": extension}, (), files, name=name))
    copies = "its own copy of torch: libc10-0e1a2b3c.so, libtorch_cpu-0e1a2b3c.so: a process has one torch"
    assert_found(f"bundled: it contains {copies}", report.errors)
    warning = "bundled: it contains its own copy of torch's CUDA packages: libcublas-0e1a2b3c.so.13: "
    assert_found(warning, findings(report, "warning"))


def test_somebody_elses_wheel_is_judged_and_not_a_crash(tmp_path: Path) -> None:
    """Upstream's own: pybind, no local version, no requirement, debug sections, paths of the builder."""
    library = Library(
        ("libc10.so", "libtorch_python.so", "libcuda.so.1"),
        (CXX, "PyObject_Call"),
        fatbin("90a"),
        ("-g", "-Wl,--build-id=none"),
        'const char *path = "/home/someone/build/torch/include/ATen/Tensor.h";\n',
    )
    files = {f"sageattention/{stem}.cpython-312-x86_64-linux-gnu.so": library.build() for stem in GOOD}
    wheel = pack_wheel(tmp_path, files, name="sageattention-2.2.0-cp312-cp312-linux_x86_64.whl")
    report = audit_wheel(wheel)
    (error,) = report.errors
    assert error.startswith("requirement: uses 4 symbols of libtorch's C++ interface")
    warnings = "\n".join(findings(report, "warning"))
    for part in (
        "_fused.cpython-312-x86_64-linux-gnu.so needs libcuda.so.1: it can't be imported",
        "_fused.cpython-312-x86_64-linux-gnu.so uses symbols of CPython",
        "sbom: it contains no SBOM",
        "licence: METADATA has no License-Expression",
        "of the machine that built it: ",
        "_qattn_sm90.cpython-312-x86_64-linux-gnu.so has debug sections (.debug_",
    ):
        assert part in warnings


def test_what_is_no_wheel_is_one_line_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in ((NAME, b"PK"), ("what-ever.whl", b"")):
        (tmp_path / name).write_bytes(content)
    ours(tmp_path).rename(tmp_path / NAME.replace("linux_", "manylinux_2_34_"))
    with zipfile.ZipFile(tmp_path / NAME.replace("cp312", "cp311"), "w") as archive:
        archive.writestr("a", b"")
    assert main([str(tmp_path), "--json"]) == AuditError.exit_code
    reports = json.loads(capsys.readouterr().out)
    broken = [report["findings"] for report in reports if report["facts"] is None]
    assert len(reports) == 4
    assert [[finding["check"] for finding in findings] for findings in broken] == [["record"]] * 3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = ours(tmp_path)
    record_path(wheel).write_text(json.dumps({"sha256": file_sha256(wheel)}))
    assert main([*map(str, wheel.parent.iterdir())]) == 0  # wheelhouse/* names the records too
    assert "1 checked, 0 failed" in capsys.readouterr().out
    assert main([str(wheel.parent), "--verbose"]) == 0
    assert "  ok       build_record" in capsys.readouterr().out
    replace_member(wheel, "sageattention/core.py", b"")
    assert main([str(wheel), "--json"]) == AuditError.exit_code
    (report,) = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    texts = [f"{each['level']}, {each['check']}: {each['message']}" for each in report["findings"]]
    assert texts == [
        "error, record: sageattention/core.py has a different digest in RECORD",
        "note, tag: its symbols fit manylinux_2_5_x86_64",
        "error, sbom: sageattention/core.py has a different SHA-256 in the SBOM",
        f"error, build_record: {wheel.name}.json is not the record of a wheel with this SHA-256",
    ]
    with pytest.raises(UsageError, match="not found"):
        main([str(tmp_path / "absent.whl")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no wheel to check"):
        main([str(tmp_path / "empty")])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"needed": ("libodd.so.1",)}, "libraries: needs libodd.so.1, which neither torch nor"),
        ({"needed": ("libpython3.12.so.1.0",)}, "libraries: needs libpython3.12.so.1.0: the interpreter"),
        ({"needed": ("libcuda.so.1",)}, "libraries: needs libcuda.so.1: it can't be imported where there is"),
        ({"needed": ("libcudart.so.12",)}, "libraries: needs libcudart.so.12, and the wheel is for CUDA"),
        ({"flags": ("-Wl,-z,execstack",)}, "stack: makes the process's stack executable"),
        ({"flags": ("-Wl,-rpath,/usr/lib",)}, "rpath: searches /usr/lib for"),
        ({"flags": ("-Wl,-rpath,$ORIGIN/../../../up",)}, "rpath: searches $ORIGIN/../../../up for"),
        ({"flags": ("-Wl,-rpath,$ORIGIN/../../torch/lib",)}, "rpath: searches $ORIGIN/../../torch/lib for"),
        ({"machine": 183}, "tag: is for AArch64, and the tag says x86_64"),
        ({"undefined": (CXX,)}, ""),
        ({"needed": ("libtorch_python.so",)}, "requirement: needs libtorch_python.so, which is built"),
        ({"undefined": ("aoti_torch_unheard_of",)}, "requirement: uses what is not known of torch"),
        ({"undefined": ("PyErr_Occurred",)}, "requirement: uses symbols of CPython, so it is for one Python"),
        ({"code": 'const char *path = "/home/me/x.cu";\n'}, "paths: contains 1 path of the machine"),
        ({"code": 'const char *name = "_INTERNAL_5c72bb42_4_x_cu";\n'}, "paths: contains 1 path of"),
        ({"flags": ("-Wl,--build-id=none", "-g", "-fdebug-prefix-map=/=/usr/")}, "debug: has debug sections"),
        ({"fatbin": fatbin("80", "86", "89", "90a", ptx="80")}, "architectures: has no cubin for 12.0"),
        ({"fatbin": fatbin(*ALL, ptx="89")}, "architectures: has no PTX for 8.0 of the 1. of its"),
        ({"fatbin": fatbin(*ALL, ptx="80") + fatbin("80", ptx="80")}, "architectures: has no cubin for 8.6"),
        (
            {"fatbin": container(*map(entry, ALL), entry("80", debug=True), entry("80", "ptx"))},
            "architectures: has GPU code made for a debugger",
        ),
    ],
)
def test_a_library_with_a_mistake(tmp_path: Path, change: dict[str, object], error: str) -> None:
    errors = audit_wheel(ours(tmp_path, _fused=changed(**change)), expect=NATIVE).errors
    assert len(errors) == bool(error)
    assert "".join(errors).startswith(error.replace(": ", f": {FUSED} ", 1))


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["Requires-Dist: torch>=2.9", "Requires-Dist: numpy"], "requirement: requires numpy besides torch"),
        (["Requires-Dist: torch>=2.9", "Requires-Python: <3.13"], "requirement: Requires-Python: <3.13 excl"),
        (["Requires-Dist: torch>=2.9", "Requires-Python: >=3.12"], "requirement: Requires-Python: >=3.12 ex"),
        (["Requires-Dist: torch>=2.9", "Requires-Python: >=2"], "requirement: neither Requires-Python nor t"),
        (["Requires-Dist: torch>=nine"], "names: METADATA: 'torch>=nine' is invalid for 'requires-dist'"),
        (["Name: other"], "names: METADATA: 'name' has invalid data"),
        (["Metadata-Version: 9.1"], "names: METADATA: 'metadata-version' has invalid data"),
        (["Requires-Dist: torch @ https://example.org/t.whl"], "requirement: requires torch from an address"),
        ([], "requirement: METADATA requires no torch"),
    ],
)
def test_metadata_with_a_mistake(tmp_path: Path, lines: list[str], error: str) -> None:
    python = [] if "Requires-Python" in "".join(lines) else ["Requires-Python: >=3.10"]
    name = STABLE_NAME.replace("-py3-", "-cp310.py3-")
    report = audit_wheel(raw_wheel(tmp_path, metadata=[*lines, *python], name=name))
    assert_found(error, [*report.errors, *findings(report, "warning")])


@pytest.mark.parametrize(
    ("symbol", "required", "error"),
    [
        (PAD, "torch>=2.9", ""),
        (PAD, "torch>2.8.9999", ""),
        (PAD, "torch==2.9.*", ""),
        (PAD, "torch>=2.8", f"uses {PAD}, for which torch 2.9 is needed; requires torch>=2.8"),
        (PAD, "torch", f"uses {PAD}, for which torch 2.9 is needed; requires torch"),
        (
            CXX,
            "torch>=2.9",
            f"uses symbols of libtorch's C++ interface, which a stable wheel may not use: {CXX}",
        ),
    ],
)
def test_each_torch_that_is_allowed_has_what_is_used(
    tmp_path: Path, symbol: str, required: str, error: str
) -> None:
    metadata = [f"Requires-Dist: {required}", "Requires-Python: >=3.10"]
    errors = audit_wheel(universal(tmp_path, metadata, _fused=changed(undefined=(symbol,)))).errors
    assert [text for text in errors if "_fused" in text] == [f"requirement: {FUSED} {error}"] * bool(error)


def test_a_native_wheel_of_the_c_interface_names_one_torch(tmp_path: Path) -> None:
    libraries = {**GOOD, "_fused": changed(undefined=(CXX,))}
    errors = audit_wheel(raw_wheel(tmp_path, libraries, ["Requires-Dist: torch==2.10.*"])).errors
    assert "requirement: requires torch 2.10 and its version says 2.11" in errors


def test_symbols_beyond_the_tag(tmp_path: Path) -> None:
    libc = compile_library(tmp_path / "libc.so.6", "void __isoc23_strtol(void) {}", version="GLIBC_2.38")
    new = changed(needed=(), undefined=("__isoc23_strtol",), flags=(str(libc),))
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    errors = audit_wheel(raw_wheel(tmp_path, {**GOOD, "_fused": new}, name=name)).errors
    needs = "GLIBC_2.38 of libc.so.6 (__isoc23_strtol); Build in the manylinux_2_34 image"
    assert_found(f"tag: {FUSED} needs {needs}", errors)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("cp312-cp312", "cp311-cp311", "names: the file WHEEL has the tags cp312-cp312-linux_x86_64, unlike"),
        ("cu130", "cu128", "names: METADATA is of sageattention 2.2.0+cu130.torch2.11.2, and the file name"),
        ("linux_x86_64", "manylinux_9_9_x86_64", "tag: manylinux_9_9_x86_64 is not a platform tag that"),
        ("linux_x86_64", "macosx_11_0_x86_64", "tag: it has shared libraries for Linux, and the tag says"),
    ],
)
def test_a_renamed_wheel(tmp_path: Path, old: str, new: str, error: str) -> None:
    wheel = ours(tmp_path)
    assert_found(error, audit_wheel(wheel.rename(wheel.with_name(NAME.replace(old, new)))).errors)


def test_a_wheel_of_another_target(tmp_path: Path) -> None:
    errors = audit_wheel(ours(tmp_path), expect=STABLE).errors
    assert_found(f"tag: the target {STABLE.name} makes wheels tagged", errors)
    assert_found("version: the version", errors)
    assert_found("requirement: requires", errors)


def test_a_missing_extension(tmp_path: Path) -> None:
    rest = {stem: library for stem, library in GOOD.items() if stem != "_qattn_sm80"}
    made = embed(raw_wheel(tmp_path, rest), PROVENANCE, tmp_path / "ours")
    assert audit_wheel(made, expect=NATIVE).errors == ["architectures: the extension _qattn_sm80 is missing"]
    none = audit_wheel(raw_wheel(tmp_path / "none", {"_other": Library()})).errors
    assert none == ["architectures: no library in it contains GPU code"]


def test_a_wheel_for_some_architectures_says_so(tmp_path: Path) -> None:
    names = ("_fused", "_qattn_sm80", "_qattn_sm89")
    some = {stem: replace(GOOD[stem], fatbin=fatbin("89", ptx="89")) for stem in names}
    provenance = replace(PROVENANCE, architectures=(Architecture(8, 9),))
    silent = embed(raw_wheel(tmp_path, some), provenance, tmp_path / "ours")
    (error,) = audit_wheel(silent, expect=NATIVE).errors
    assert "2.2.0+cu130.torch2.11.2 should end in +cu130.torch2.11.2.sm89, by target" in error
    name = NAME.replace("torch2.11.2", "torch2.11.2.sm89")
    honest = embed(raw_wheel(tmp_path, some, name=name), provenance, tmp_path / "ours")
    assert audit_wheel(honest, expect=NATIVE).errors == audit_wheel(honest).errors == []
    more = raw_wheel(tmp_path, some, name=NAME.replace("torch2.11.2", "torch2.11.2.sm89.sm90a"))
    errors = audit_wheel(more).errors
    assert f"architectures: {FUSED} has no cubin for 9.0a" in errors
    assert "architectures: the extension _qattn_sm90 is missing" in errors


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"triton/core.py": b"1"}, "names: it installs triton beside sageattention"),
        ({"sageattention/a.pyc": b"1"}, "files: sageattention/a.pyc is byte code"),
        ({"sageattention/a.so": b"1"}, "files: sageattention/a.so is not a shared library"),
        ({"sageattention/a.py": b"x = '/tmp/build/x.py'"}, "paths: sageattention/a.py contains 1 path of th"),
        (
            {"sageattention.libs/libcudart-12345678.so.13": b""},
            "licence: sageattention.libs/libcudart-12345678",
        ),
        ({f"{INFO}/licenses/NOTICE": b""}, f"licence: {INFO}/licenses/NOTICE is empty"),
    ],
)
def test_files_that_do_not_belong_there(tmp_path: Path, files: dict[str, bytes], error: str) -> None:
    assert_found(error, audit_wheel(ours(tmp_path, files)).errors)
