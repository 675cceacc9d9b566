"""The audit: a good wheel passes, and each fault is found by the check that is for it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_libraries import Elf, container, entry, fatbin, make_elf, pack_wheel
from packaging.specifiers import SpecifierSet

from builder.check.audit import UNPATCHED, Report, audit_wheel, main, table, target_of
from builder.check.audit_checks import (
    CHECKS,
    Label,
    build_paths,
    expected_architectures,
    forbidden_copy,
    pinned_series,
    resolve_origin,
    stable_torch_symbols,
    unlimited_python_symbols,
    unstable_torch_symbols,
)
from builder.finish.provenance import PatchFile, Provenance, finalize
from builder.finish.repair import BundledLibrary
from builder.source.obtain import Source
from builder.target.architectures import Architecture
from builder.target.project import Project
from builder.target.targets import load_targets
from builder.toolchain.materials import Material
from builder.util.errors import AuditError, UsageError
from builder.wheel.elf import read_elf
from builder.wheel.libraries import DRIVER, PYTHON, TORCH, TORCH_CUDA
from builder.wheel.wheelfile import rewrite

TARGETS = load_targets()
NATIVE, STABLE = TARGETS["cp312-cu130"], TARGETS["abi3-cu130"]
NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
STABLE_NAME = "sageattention-2.2.0+cu130.universal-cp310-abi3-linux_x86_64.whl"
ALL = ("80", "86", "89", "90a", "120")
NEEDED = ("libtorch_cpu.so", "libcudart.so.13", "libc.so.6")
SHIM = ("aoti_torch_get_sizes", "torch_call_dispatcher")
EXTENSIONS = {
    "_fused": Elf(NEEDED, fatbin=fatbin(*ALL), undefined=SHIM),
    "_qattn_sm80": Elf(NEEDED, fatbin=fatbin(*ALL), undefined=SHIM),
    "_qattn_sm89": Elf(NEEDED, fatbin=fatbin("89", "90a", "120"), undefined=SHIM),
    "_qattn_sm90": Elf(NEEDED, fatbin=fatbin("90a"), undefined=SHIM),
}
RUNTIME = "sageattention.libs/libcudart-12345678.so.13"
BUNDLED = BundledLibrary(RUNTIME, "libcudart.so.13", "e" * 64, "nvidia-cuda-runtime", "13.0.96")


def told(stable: bool = False) -> Provenance:
    target = STABLE if stable else NATIVE
    return Provenance(
        target=target,
        architectures=target.architectures,
        source=Source(
            kind="release",
            version="2.2.0",
            location="https://example.org/a.tar.gz",
            sha256="d" * 64,
            license="Apache-2.0",
            tree=Path(),
            tag="v2.2.0",
        ),
        patches=(PatchFile("0001-build.toml", b"what = 'one'\n", "one"),),
        patch_count=1,
        tools=(Material("build-tool", "nvidia-cuda-nvcc", "13.0.88", "a" * 64),),
        project=Project("wheels", "https://example.org/wheels", "f" * 40),
        epoch=1761613216,
    )


def raw_wheel(
    folder: Path,
    name: str = NAME,
    extensions: Mapping[str, Elf] = EXTENSIONS,
    metadata: Sequence[str] = ("Requires-Dist: torch==2.11.*", "Requires-Python: ==3.12.*"),
    files: Mapping[str, bytes] | None = None,
) -> Path:
    content = {f"sageattention/lib/{stem}.so": make_elf(elf) for stem, elf in extensions.items()}
    return pack_wheel(
        folder / "built", name, {"sageattention/core.py": b"x = 1\n", **content, **(files or {})}, metadata
    )


def ours(folder: Path, **changes: Elf) -> Path:
    """A wheel of this project, with changes to some extensions."""
    return finalize(raw_wheel(folder, extensions={**EXTENSIONS, **changes}), told(), folder / "ours")


def stable(folder: Path, metadata: Sequence[str] | None = None, **changes: Elf) -> Path:
    """A stable wheel of this project, with changes to some extensions."""
    lines = metadata if metadata is not None else ["Requires-Dist: torch>=2.10", "Requires-Python: >=3.10"]
    wheel = raw_wheel(folder, STABLE_NAME, {**EXTENSIONS, **changes}, lines)
    return finalize(wheel, told(stable=True), folder / "ours")


def found(report: Report, level: str = "error") -> list[str]:
    return [f"{finding.check}: {finding.message}" for finding in report.findings if finding.level == level]


def only_error(report: Report) -> str:
    errors = found(report)
    assert len(errors) == 1, errors
    assert report.failed
    return errors[0]


def test_a_good_wheel_passes_with_nothing_to_say(tmp_path: Path) -> None:
    report = audit_wheel(ours(tmp_path), expect=NATIVE)
    assert found(report) == found(report, "warning") == []
    assert report.passed
    assert report.checks == tuple(CHECKS)
    report.raise_if_failed()
    assert report.facts is not None
    assert report.facts.torch_requirement == "torch==2.11.*"
    assert report.facts.torch_symbols == ("aoti_torch_get_sizes", "torch_call_dispatcher")
    assert report.facts.unstable_symbols == 0
    assert report.facts.architectures["_qattn_sm89"] == ("8.9", "9.0a", "12.0")
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
    assert "it brings its own torch, so importing it aborts the interpreter: " in errors[0]
    assert "libtorch_cpu-0e1a2b3c.so, libc10-0e1a2b3c.so (" in errors[0]
    assert report.facts is not None
    assert report.facts.architectures == {"_qattn_sm90": ("9.0a",)}
    warnings = found(report, "warning")
    assert any("it brings second copies: libcublas-0e1a2b3c.so.13 (" in text for text in warnings)
    with pytest.raises(AuditError, match=r"(?s)failed its audit.*aborts the interpreter"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("torch/lib/libtorch.so", TORCH),
        ("x.libs/libtorch_python-1a2b3c4d.so", TORCH),
        ("x.libs/libcuda-1a2b3c4d.so.1", DRIVER),
        ("x.libs/libcudnn-1a2b3c4d.so.9", TORCH_CUDA),
        ("x.libs/libpython3-1a2b3c4d.so", PYTHON),
        ("x.libs/libcudart-1a2b3c4d.so.13", None),
        ("sageattention/lib/_fused.so", None),
        ("sageattention/libtorch.py", None),
    ],
)
def test_copies_that_must_not_be(name: str, owner: object) -> None:
    assert forbidden_copy(name) is owner


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
    assert only_error(report).startswith("requirement: takes 4 symbols of libtorch's C++ interface")
    warnings = "\n".join(found(report, "warning"))
    for part in (
        "libraries: _fused.cpython-312-x86_64-linux-gnu.so needs libcuda.so.1: it can't be imported",
        "version: it holds only 9.0a and its version doesn't say so (no 8.0, 8.6, 8.9, 12.0)",
        "version: the version 2.2.0 doesn't say for which CUDA it is",
        "version: the version 2.2.0 doesn't say for which torch it is",
        "sbom: it holds no SBOM",
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


def tamper(wheel: Path, name: str, data: bytes) -> Path:
    """Replace one member and nothing else, as someone might who doesn't know of RECORD."""
    with zipfile.ZipFile(wheel) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    members[next(member for member in members if member.endswith(name))] = data
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return wheel


def test_changed_bytes(tmp_path: Path) -> None:
    wheel = tamper(ours(tmp_path), "core.py", b"import os\n")
    assert only_error(audit_wheel(wheel)) == "record: sageattention/core.py has other bytes than RECORD says"


def test_changed_bytes_with_a_record_that_was_mended(tmp_path: Path) -> None:
    wheel = ours(tmp_path)
    other = make_elf(replace(EXTENSIONS["_qattn_sm90"], data=b"other"))
    made = rewrite(wheel, tmp_path / "out", add={"sageattention/lib/_qattn_sm90.so": other}, epoch=0)
    assert (
        only_error(audit_wheel(made))
        == "sbom: sageattention/lib/_qattn_sm90.so has other bytes than the SBOM says"
    )


def test_files_that_the_sbom_does_not_know(tmp_path: Path) -> None:
    made = rewrite(
        ours(tmp_path),
        tmp_path / "out",
        add={
            "sageattention/lib/_more.so": make_elf(Elf()),
            f"{INFO}/patches/9999-more.patch": b"",
        },
        epoch=0,
    )
    assert [text for text in found(audit_wheel(made)) if text.startswith("sbom:")] == [
        f"sbom: {INFO}/patches/9999-more.patch is in the wheel and not in the SBOM",
        "sbom: sageattention/lib/_more.so is in the wheel and not in the SBOM",
    ]


def test_an_sbom_that_is_none(tmp_path: Path) -> None:
    name = f"{INFO}/sboms/sageattention.cdx.json"
    made = rewrite(ours(tmp_path), tmp_path / "out", add={name: b"{"}, epoch=0)
    assert any(text.startswith(f"sbom: {name}: not JSON") for text in found(audit_wheel(made)))


def test_an_unverified_source_is_a_warning(tmp_path: Path) -> None:
    source = replace(told().source, kind="directory", location="/home/me/fork", tag="")
    made = finalize(raw_wheel(tmp_path), replace(told(), source=source), tmp_path / "ours")
    report = audit_wheel(made, expect=NATIVE)
    assert report.passed
    assert found(report, "warning") == ["sbom: built from an unverified source: fork"]


def test_no_wheel_at_all(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"PK")
    report = audit_wheel(path)
    assert "can't be read as a wheel" in only_error(report)
    assert report.facts is None


def test_an_extension_that_is_garbage(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, files={"sageattention/lib/_more.so": b"\x7fELF" + b"garbage" * 30})
    assert any("record: sageattention/lib/_more.so: not" in text for text in found(audit_wheel(wheel)))
    broken = replace(EXTENSIONS["_fused"], fatbin=fatbin("80")[:-20])
    errors = found(audit_wheel(raw_wheel(tmp_path, extensions={**EXTENSIONS, "_fused": broken})))
    assert any("_fused.so: offset 0x0: the container is longer" in text for text in errors)


def test_names_that_disagree(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path)
    other = wheel.rename(
        wheel.with_name(NAME.replace("2.2.0", "2.2.1").replace("cp312-cp312", "cp311-cp311"))
    )
    errors = found(audit_wheel(other, house_rules=False))
    assert (
        "names: METADATA says version 2.2.0+cu130.torch2.11 and the file name 2.2.1+cu130.torch2.11" in errors
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


def test_symbols_beyond_the_tag(tmp_path: Path) -> None:
    new = replace(EXTENSIONS["_fused"], versions={"libc.so.6": {"GLIBC_2.38": ["__isoc23_strtol"]}})
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    errors = found(audit_wheel(raw_wheel(tmp_path, name, {**EXTENSIONS, "_fused": new})))
    assert any(
        "tag: _fused.so needs GLIBC_2.38 of libc.so.6 (__isoc23_strtol), beyond GLIBC_2.34; Build in the"
        in text
        for text in errors
    )


def test_a_tag_of_another_python_or_machine(tmp_path: Path) -> None:
    files = {
        "sageattention/_x.cpython-311-x86_64-linux-gnu.so": make_elf(Elf()),
        "sageattention/_y.so": make_elf(Elf(machine=183)),
    }
    errors = found(audit_wheel(raw_wheel(tmp_path, files=files)))
    assert "tag: _x.cpython-311-x86_64-linux-gnu.so is for CPython 311, and the tag says cp312" in errors
    assert "tag: _y.so is for AArch64, and the tag says x86_64" in errors


def test_a_tag_of_another_target(tmp_path: Path) -> None:
    errors = found(audit_wheel(ours(tmp_path), expect=STABLE))
    assert any(
        text.startswith("tag: the target abi3-cu130 makes wheels tagged cp310-abi3") for text in errors
    )


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        ("libodd.so.1", "needs libodd.so.1, which neither torch nor the driver nor the system brings"),
        (
            "libpython3.12.so.1.0",
            "needs libpython3.12.so.1.0: the interpreter itself defines its symbols (PEP 513)",
        ),
        ("libcuda.so.1", "needs libcuda.so.1: it can't be imported where there is no driver"),
        ("libcudart.so.12", "needs libcudart.so.12, and the wheel is for CUDA 13.0"),
    ],
)
def test_libraries_that_nobody_should_need(tmp_path: Path, needed: str, message: str) -> None:
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], needed=[needed]))
    assert only_error(audit_wheel(wheel, expect=NATIVE)) == f"libraries: _fused.so {message}"


def test_a_manylinux_wheel_without_the_runtime(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, NAME.replace("linux_x86_64", "manylinux_2_34_x86_64"))
    expected = (
        "libraries: _fused.so needs libcudart.so.13, which the tag manylinux_2_34_x86_64 doesn't promise"
    )
    assert expected in found(audit_wheel(wheel), "warning")


def test_a_missing_architecture(tmp_path: Path) -> None:
    wheel = ours(tmp_path, _qattn_sm89=replace(EXTENSIONS["_qattn_sm89"], fatbin=fatbin("89", "90a")))
    assert (
        only_error(audit_wheel(wheel, expect=NATIVE)) == "architectures: _qattn_sm89.so has no cubin for 12.0"
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
        stem: replace(EXTENSIONS[stem], fatbin=fatbin("89"))
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
    section = container(*(entry(number) for number in ALL), entry("80", debug=True), entry("90", "ptx"))
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], fatbin=section))
    report = audit_wheel(wheel, expect=NATIVE)
    assert only_error(report).startswith("architectures: _fused.so has GPU code made for a debugger")
    assert "architectures: _fused.so has PTX for 9.0" in found(report, "note")


def test_no_gpu_code(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, extensions={"_other": Elf()})
    assert "architectures: no library in it holds GPU code" in found(audit_wheel(wheel))


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


UNSTABLE = [
    "_ZN2at6detail10noopDeleteEPv",
    "_ZNK3c1010TensorImpl5sizesEv",
    "_ZN5torch8autograd3goEv",
    "_Z3fooRKN2at6TensorE",
]
NOT_UNSTABLE = [
    "_ZNSt6vectorIiE3endEv",
    "_ZN12at_something3goEv",
    "aoti_torch_get_sizes",
    "torch_call_dispatcher",
    "cudaMalloc",
    "at_exit",
]


def test_symbols_of_torch() -> None:
    library = read_elf(make_elf(Elf(undefined=UNSTABLE + NOT_UNSTABLE, defined=["_ZN5torch6stable2goEv"])))
    assert set(unstable_torch_symbols(library)) == set(UNSTABLE)
    assert stable_torch_symbols(library) == ("aoti_torch_get_sizes", "torch_call_dispatcher")


def test_symbols_of_python() -> None:
    names = [
        "PyObject_Call",
        "PyType_FromSpec",
        "_PyObject_GC_New",
        "PyUnicode_AsUTF8AndSize",
        "PyObject_Vectorcall",
        "PyTuple_Type",
        "Pyramid",
    ]
    library = read_elf(make_elf(Elf(undefined=names)))
    pytest.importorskip("abi3info")
    assert unlimited_python_symbols(library, (3, 10)) == ("PyObject_Vectorcall",)
    assert unlimited_python_symbols(library, (3, 9)) == ("PyObject_Vectorcall", "PyUnicode_AsUTF8AndSize")
    assert unlimited_python_symbols(library, (3, 12)) == ()
    assert unlimited_python_symbols(read_elf(make_elf(Elf())), (3, 10)) == ()


@pytest.mark.parametrize("symbol", UNSTABLE)
def test_a_stable_wheel_may_not_take_torchs_cxx_interface(tmp_path: Path, symbol: str) -> None:
    wheel = stable(tmp_path, _fused=replace(EXTENSIONS["_fused"], undefined=[symbol]))
    assert only_error(audit_wheel(wheel, expect=STABLE)) == (
        f"requirement: _fused.so takes from libtorch's C++ interface, which a stable wheel may not: {symbol}"
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
        "requirement: _fused.so takes what CPython's limited API of 3.10 lacks: _PyThreadState_UncheckedGet"
    )


def test_a_stable_wheel_without_its_oldest_torch(tmp_path: Path) -> None:
    errors = found(audit_wheel(stable(tmp_path, ["Requires-Dist: torch"])))
    assert "requirement: requires torch, without the oldest torch whose stable interface it uses" in errors
    report = audit_wheel(stable(tmp_path, ["Requires-Dist: torch==2.11.*"]))
    assert "requirement: requires torch==2.11.*: one torch only, though its ABI is stable" in found(
        report, "warning"
    )


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
        assert audit_wheel(wheel).failed is fails, requirement
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


def test_licences(tmp_path: Path) -> None:
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    lines = ["License-Expression: Apache 2", "License-File: NOTICE"]
    wheel = raw_wheel(tmp_path, name, metadata=lines, files={RUNTIME: make_elf(Elf())})
    report = audit_wheel(wheel)
    errors = "\n".join(found(report))
    assert "licence: License-Expression: Invalid license expression" in errors
    assert "licence: License-File: NOTICE is not in it" in errors
    assert f"licence: {RUNTIME} is NVIDIA's, and the licence expression doesn't say so" in found(
        report, "warning"
    )


def test_a_missing_link_to_the_project(tmp_path: Path) -> None:
    nameless = replace(told(), project=Project("wheels", "", ""))
    report = audit_wheel(finalize(raw_wheel(tmp_path), nameless, tmp_path / "ours"), expect=NATIVE)
    assert report.passed
    assert found(report, "warning") == [
        "description: METADATA doesn't link the project that built it (builder/project.toml)"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/home/runner/work/x/x/csrc/a.cu",
        "/root/.cache/sageattention-build/include/a.h",
        "/tmp/build-env-x1/lib/a.h",
        "/builds/venv/lib/python3.12/site-packages/torch/include/a.h",
        "/usr/local/lib/python3.12/site-packages/torch/include/a.h",
        "/__w/project/a.cu",
        "/opt/conda/include/a.h",
    ],
)
def test_paths_of_a_build_machine(tmp_path: Path, path: str) -> None:
    assert build_paths(b"\0assertion in " + path.encode() + b"\0") == (path,)
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], data=path.encode() + b"\0"))
    assert only_error(audit_wheel(wheel)).endswith(f"names 1 path of the machine that built it: {path}")


@pytest.mark.parametrize(
    "text",
    [
        "/usr/include/c++/12/bits/stl_vector.h",
        "/usr/local/cuda/include/cuda_fp16.h",
        "https://example.org/home/page",
        "csrc/home/a.cu",
        "$ORIGIN/tmp/x",
        "/opt/rh/gcc-toolset-14/root/usr/include/a.h",
        "/tmp",
        "/home/",
        "and/or/home/x",
    ],
)
def test_texts_that_name_no_build_machine(text: str) -> None:
    assert build_paths(b"\0" + text.encode() + b"\0") == ()


def test_paths_in_other_files(tmp_path: Path) -> None:
    report = audit_wheel(
        raw_wheel(tmp_path, files={"sageattention/version.py": b"where = '/home/me/build'\n"})
    )
    assert any("sageattention/version.py names 1 path" in text for text in found(report, "warning"))


def test_an_executable_stack(tmp_path: Path) -> None:
    for stack in ("executable", "unsaid"):
        wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], stack=stack))
        assert only_error(audit_wheel(wheel)).startswith(
            "stack: _fused.so makes the process's stack executable"
        )


@pytest.mark.parametrize(
    "rpath", ["/usr/local/cuda/lib64", "", "lib", "$ORIGIN/../../../../../up", "$ORIGINAL/x"]
)
def test_search_paths_that_leave_the_environment(tmp_path: Path, rpath: str) -> None:
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], runpath=f"$ORIGIN:{rpath}"))
    assert only_error(audit_wheel(wheel)) == (
        f"rpath: sageattention/lib/_fused.so searches {rpath or 'the current folder'} for libraries"
    )


def test_search_paths_to_other_packages_break_a_house_rule(tmp_path: Path) -> None:
    elf = replace(EXTENSIONS["_fused"], rpath="$ORIGIN/../../torch/lib")
    assert only_error(audit_wheel(ours(tmp_path, _fused=elf))).startswith("rpath:")
    assert audit_wheel(raw_wheel(tmp_path, extensions={**EXTENSIONS, "_fused": elf})).passed


def test_where_search_paths_lead() -> None:
    library = "sageattention/lib/_fused.so"
    assert resolve_origin("$ORIGIN/../../sageattention.libs", library) == "sageattention.libs"
    assert resolve_origin("${ORIGIN}", library) == "sageattention/lib"
    assert resolve_origin("$ORIGIN/../../..", library) is None
    assert resolve_origin("/x", library) is None


def test_sizes(tmp_path: Path) -> None:
    wheel = ours(tmp_path)
    report = audit_wheel(wheel, size_limit_bytes=1000)
    assert only_error(report).startswith("size: ")
    assert audit_wheel(wheel, size_limit_bytes=1000, house_rules=False).passed


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cu130.torch2.11", Label("13.0", "2.11", False, ())),
        ("cu128.universal", Label("12.8", "", True, ())),
        ("cu130.torch2.11.sm89.sm90a", Label("13.0", "2.11", False, ("89", "90a"))),
        ("cu128torch2.8.0", Label("12.8", "2.8", False, ())),
        ("", Label("", "", False, ())),
        ("someones.own", Label("", "", False, ())),
    ],
)
def test_local_versions(text: str, label: Label) -> None:
    assert Label.parse(text) == label


def test_the_target_is_found_by_the_sbom(tmp_path: Path) -> None:
    assert target_of(ours(tmp_path), TARGETS.values()) == NATIVE
    assert target_of(raw_wheel(tmp_path), TARGETS.values()) is None
    assert target_of(tmp_path / "absent.whl", TARGETS.values()) is None


def test_the_table(tmp_path: Path) -> None:
    good, bad = (
        audit_wheel(ours(tmp_path / "good")),
        audit_wheel(ours(tmp_path / "bad", _fused=Elf(stack="executable"))),
    )
    text = table([good, bad])
    assert f"PASS  {NAME}" in text
    assert f"FAIL  {NAME}" in text
    assert "_qattn_sm89    8.9 9.0a 12.0" in text
    assert "  error    stack          _fused.so makes the process's stack executable" in text
    assert "symbols fit" not in text
    assert "  ok       rpath" in table([good], notes=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = ours(tmp_path)
    assert main([str(wheel)]) == 0
    assert "1 checked, 0 failed" in capsys.readouterr().out
    tamper(wheel, "core.py", b"")
    assert main([str(wheel.parent)]) == AuditError.exit_code
    assert "1 checked, 1 failed" in capsys.readouterr().out
    assert main([str(wheel), "--waive", "record"]) == 0
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
