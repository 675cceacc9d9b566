"""Wheels that somebody changed, and whose RECORD and SBOM he put right: the audit finds each."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_audits import ALL, BUNDLED, EXTENSIONS, INFO, NAME, RUNTIME, found, ours, raw_wheel, told
from made_up_libraries import Elf, container, entry, fatbin, make_elf

from builder.check.audit import audit_wheel, main, target_of
from builder.finish.finalize import finalize
from builder.target.targets import load_targets
from builder.util.errors import AuditError

Files = dict[str, bytes]
SBOM = f"{INFO}/sboms/sageattention.cdx.json"
METADATA, WHEEL, RECORD = (f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD"))
CORE, FUSED = "sageattention/core.py", "sageattention/lib/_fused.so"


def read(wheel: Path) -> Files:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(folder: Path, files: Files, name: str = NAME, modes: dict[str, int] | None = None) -> Path:
    """A wheel whose RECORD fits."""
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in files.items()
        if path != RECORD
    ]
    record = next((path for path in files if path.endswith(".dist-info/RECORD")), RECORD)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in {**files, record: "\n".join([*lines, f"{record},,", ""]).encode()}.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = (stat.S_IFREG | (modes or {}).get(path, 0o644)) << 16
            archive.writestr(info, data)
    return folder / name


def put_right(files: Files) -> None:
    """List each file in the SBOM as it is now, as one does who knows the format."""
    document = json.loads(files[SBOM])
    parts = document["components"]

    def place(part: Any) -> str:
        paths = (each["value"] for each in part["properties"] if each["name"].endswith(":path"))
        return str(next(paths, part["name"]))

    parts[:] = [part for part in parts if "sageattention" not in place(part) or place(part) in files]
    for name in files.keys() - {SBOM, RECORD} - set(map(place, parts)):
        kind = {"name": "sageattention-wheel:kind", "value": "file"}
        parts.append({"name": name, "type": "file", "properties": [kind]})
    for part in parts:
        if place(part) in files:
            digest = hashlib.sha256(files[place(part)]).hexdigest()
            part["hashes"] = [{"alg": "SHA-256", "content": digest}]
    files[SBOM] = json.dumps(document).encode()


def edit(name: str, old: str, new: str) -> Callable[[Files], object]:
    def change(files: Files) -> None:
        assert old in files[name].decode()
        files[name] = files[name].decode().replace(old, new, 1).encode()

    return change


def sbom(change: Callable[[Any], object]) -> Callable[[Files], object]:
    """Change the SBOM's document."""

    def changed(files: Files) -> None:
        change(document := json.loads(files[SBOM]))
        files[SBOM] = json.dumps(document).encode()

    return changed


def add(name: str, data: bytes = b"x = 1\n") -> Callable[[Files], object]:
    return lambda files: files.update({name: data})


def properties(part: Any, **values: str) -> None:
    for each in part["properties"]:
        each["value"] = values.get(each["name"].partition(":")[2], each["value"])


def source(document: Any) -> Any:
    return next(part for part in document["components"] if part["name"] == "SageAttention")


def with_gpu_code(section: bytes) -> Callable[[Files], object]:
    return add(FUSED, make_elf(replace(EXTENSIONS["_fused"], fatbin=section)))


ONE_KERNEL_LACKS_120 = container(*map(entry, ALL)) + container(*map(entry, ALL[:-1]))
ZEROED = bytearray(fatbin(*ALL))
ZEROED[16 + 64 : 16 + 128] = bytes(64)
THROUGH_REQUIREMENT = "Requires-Dist: torch==2.11.*"

# What is changed, and the error that names it even where RECORD and SBOM were put right.
CHANGES: list[tuple[Callable[[Files], object], str]] = [
    (
        edit(METADATA, THROUGH_REQUIREMENT, f"{THROUGH_REQUIREMENT}\nRequires-Dist: evil"),
        "evil besides torch",
    ),
    (edit(METADATA, "torch==2.11.*", "torch @ https://example.org/t.whl"), "torch from an address"),
    (edit(METADATA, "torch==2.11.*", "torch<2"), "requires torch<2"),
    (
        edit(METADATA, THROUGH_REQUIREMENT, f"{THROUGH_REQUIREMENT}\nRequires-Dist: torch<2"),
        "torch more than",
    ),
    (edit(METADATA, "torch==2.11.*", "torch==2.11.* ; x"), "is not a requirement"),
    (edit(METADATA, "Name:", "Name: other\nName:"), "the field Name more than once"),
    (edit(METADATA, "Metadata-Version: 2.4", "Metadata-Version: 9.0"), "Metadata-Version is 9.0"),
    (edit(METADATA, "1 patch)", "2 patches)"), "doesn't say '1 patch'"),
    (edit(METADATA, "for CUDA 13.0", "for CUDA 12.8"), "doesn't say 'for CUDA 13.0'"),
    (edit(WHEEL, "Wheel-Version: 1.0", "Wheel-Version: 99.0"), "Wheel-Version is 99.0"),
    (edit(WHEEL, "Wheel-Version: 1.0\n", ""), "Wheel-Version is missing"),
    (add("sageattention/__pycache__/core.cpython-312.pyc"), "is byte code"),
    (add(f"{INFO}/entry_points.txt", b"[console_scripts]\nls = os:abort\n"), "makes commands or plugins"),
    (add("evil.pth", b"import os\n"), "it installs evil.pth beside"),
    (add("sitecustomize.py"), "it installs sitecustomize.py beside"),
    (add("torch/evil.py"), "it installs torch beside"),
    (add(f"{INFO[:-10]}.data/scripts/python"), ".data beside"),
    (add(f"{INFO}/licenses/LICENSE", b""), "licenses/LICENSE is empty"),
    (lambda files: files.pop(f"{INFO}/licenses/LICENSE"), "licence: "),
    (
        edit(METADATA, "# Read me", "> **About this wheel.** Official.\n"),
        "describes the wheel more than once",
    ),
    (edit(WHEEL, "Wheel-Version: 1.0", "Wheel-Version: 1.0\nBuild: 9"), "a build tag unlike the file name's"),
    (edit(WHEEL, "Wheel-Version: 1.0", "Wheel-Version: 1.0\nWheel-Version: 2.0"), "Wheel-Version more than"),
    (add("sageattention/core/__init__.py"), "hides the module of the same name"),
    (
        lambda files: [files.pop(name) for name in list(files) if "/patches/" in name],
        "doesn't say 'no patches'",
    ),
    (
        sbom(lambda document: document["metadata"]["component"].update(version="9")),
        "the SBOM is of sageattention 9",
    ),
    (sbom(lambda document: properties(document["metadata"]["component"], abi="stable")), "abi stable"),
    (add("sageattention/lib/_more.so", b"not a library"), "is not a shared library"),
    (add("sageattention/lib/_more.so", make_elf(Elf())), "_more.so is not a library of SageAttention"),
    (
        add("sageattention.libs/libmore.so.1", make_elf(Elf())),
        "libmore.so.1 is not a library of SageAttention",
    ),
    (with_gpu_code(ONE_KERNEL_LACKS_120), "no cubin for 12.0 of the 2. of its source files"),
    (with_gpu_code(bytes(ZEROED)), "holds no GPU code"),
    (lambda files: files.pop(SBOM), "nothing says what it was made from"),
    (
        lambda files: [files.pop(name) for name in list(files) if "/sboms/" in name or "/patches/" in name],
        "SBOM",
    ),
    (sbom(lambda document: properties(source(document), verified="false")), "the same in its pedigree"),
    (
        sbom(lambda document: source(document)["hashes"][0].update(content="0" * 64)),
        "the same in its pedigree",
    ),
    (sbom(lambda document: document["components"].remove(source(document))), "name one source"),
    (
        sbom(lambda document: document["components"].append(source(document))),
        "lists source SageAttention twice",
    ),
    (sbom(lambda document: document["metadata"]["component"].pop("purl")), "the SBOM is of a file without"),
    (
        sbom(lambda document: properties(document["metadata"]["component"], cuda="12.8")),
        "which says CUDA 12.8",
    ),
    (
        sbom(lambda document: properties(document["metadata"]["component"], torch="torch<2")),
        "SBOM says torch<2",
    ),
]


@pytest.mark.parametrize(("change", "error"), CHANGES, ids=[error for _, error in CHANGES])
@pytest.mark.parametrize("mended", [False, True], ids=["RECORD", "RECORD and SBOM"])
def test_a_change_is_found(
    tmp_path: Path, change: Callable[[Files], object], error: str, mended: bool
) -> None:
    files = read(ours(tmp_path))
    change(files)
    if (mended or "no patches" in error) and SBOM in files:
        put_right(files)
    wheel = write(tmp_path / "changed", files)
    for report in (audit_wheel(wheel), audit_wheel(wheel, expect=target_of(wheel, load_targets().values()))):
        assert any(error in text for text in found(report)), found(report)


def test_putting_an_unchanged_wheel_right_changes_no_verdict(tmp_path: Path) -> None:
    files = read(ours(tmp_path))
    put_right(files)
    assert audit_wheel(write(tmp_path / "same", files)).passed


@pytest.mark.parametrize(
    "change",
    [
        add(CORE, b"import os\n"),
        add("sageattention/more.py"),
        lambda files: files.pop(CORE),
        edit(METADATA, "# Read me", "# Read this"),
        edit(WHEEL, "Root-Is-Purelib", "Generator: other\nRoot-Is-Purelib"),
        add(f"{INFO}/licenses/LICENSE", b"other"),
        add(f"{INFO}/RECORD.jws", b"{}"),
        sbom(lambda document: document.update(components=[])),
    ],
)
def test_every_file_has_to_be_in_the_sbom_as_it_is(tmp_path: Path, change: Callable[[Files], object]) -> None:
    files = read(ours(tmp_path))
    change(files)
    assert any(text.startswith("sbom: ") for text in found(audit_wheel(write(tmp_path / "changed", files))))


def test_a_verified_source_is_the_pinned_one(tmp_path: Path) -> None:
    for changes in ({"sha256": "0" * 64}, {"commit": "0" * 40}, {"tag": "v9.9.9"}, {"tag": "../.."}):
        forged = replace(told(), source=replace(told().source, **changes))  # type: ignore[arg-type]
        report = audit_wheel(finalize(raw_wheel(tmp_path), forged, tmp_path / "ours"))
        assert any(text.startswith("sbom: the SBOM says ") for text in found(report)), changes


def test_a_wheel_that_is_relabelled(tmp_path: Path) -> None:
    """Every name of version and CUDA, but not the libraries that it needs."""
    inside = replace(EXTENSIONS["_fused"], needed=["libcudart-12345678.so.13"])
    files = {RUNTIME: make_elf(Elf(soname="libcudart-12345678.so.13"))}
    wheel = raw_wheel(tmp_path, extensions={**EXTENSIONS, "_fused": inside}, files=files)
    made = read(finalize(wheel, told(), tmp_path / "ours", bundled=[BUNDLED], runtime_license=b"terms"))
    renamed = {
        name.replace("cu130", "cu128"): data
        if data.startswith(b"\x7fELF")
        else data.replace(b"cu130", b"cu128")
        .replace(b"CUDA 13.0", b"CUDA 12.8")
        .replace(b'"13.0"', b'"12.8"')
        for name, data in made.items()
    }
    report = audit_wheel(write(tmp_path / "changed", renamed, NAME.replace("cu130", "cu128")))
    assert "libraries: _fused.so needs libcudart-12345678.so.13, and the wheel is for CUDA 12.8" in found(
        report
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (NAME.replace("linux_x86_64", "any"), "for Linux, and the tag says any"),
        (NAME.replace("linux_x86_64", "win_amd64"), "for Linux, and the tag says win_amd64"),
        (NAME.replace("-cp312-cp312", "-9-cp312-cp312"), "its name has the build tag 9"),
        (
            NAME.replace("2.2.0", "2.2.0.post1"),
            "the SBOM's source is version 2.2.0, and the wheel 2.2.0.post1",
        ),
        (NAME.replace("2.2.0", "1!2.2.0"), "the SBOM's source is version 2.2.0, and the wheel 1!2.2.0"),
    ],
)
def test_a_name_that_installers_would_prefer(tmp_path: Path, name: str, error: str) -> None:
    files = read(ours(tmp_path))
    tag, version = "-".join(name[:-4].split("-")[-3:]), name.split("-")[1]
    edit(WHEEL, "cp312-cp312-linux_x86_64", tag)(files)
    edit(METADATA, "Version: 2.2.0", f"Version: {version.partition('+')[0]}")(files)
    renamed = {
        path.replace("-2.2.0+", f"-{version.partition('+')[0]}+"): data for path, data in files.items()
    }
    report = audit_wheel(write(tmp_path / "changed", renamed, name))
    assert any(error in text for text in found(report)), found(report)


def test_a_packing_that_not_every_installer_knows(tmp_path: Path) -> None:
    wheel = ours(tmp_path)
    files = read(wheel)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_LZMA) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    assert f"files: {CORE} is packed in a way that not every installer can unpack" in found(
        audit_wheel(wheel)
    )


def test_odd_modes(tmp_path: Path) -> None:
    wheel = write(tmp_path / "changed", read(ours(tmp_path)), modes={CORE: 0o4755, FUSED: 0o777})
    assert {"files: sageattention/core.py has the mode 4755", f"files: {FUSED} has the mode 777"} <= set(
        found(audit_wheel(wheel))
    )


@pytest.mark.parametrize("requires", [["Requires-Dist: torch==2.11.*"], []])
def test_an_unpatched_wheel_is_held_to_no_house_rule(tmp_path: Path, requires: list[str]) -> None:
    unpatched = replace(told(), patches=())
    made = finalize(raw_wheel(tmp_path, metadata=requires), unpatched, tmp_path / "ours")
    files = read(made)
    files["tests/x.py"] = b""
    put_right(files)
    report = audit_wheel(write(tmp_path / "changed", files))
    assert report.passed, found(report)
    assert "names: it installs tests beside sageattention" in found(report, "warning")


# Bytes of one file that no reader should trip over, and the check that names it.
GARBAGE: list[tuple[str, bytes, str]] = [
    (METADATA, b"", "names"),
    (METADATA, b"\xff\xfe\0" * 99, "names"),
    (METADATA, b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\nName: a\n--x--", "names"),
    (METADATA, b"Metadata-Version: 2.4\nName: sageattention\nVersion: " + b"9" * 5000, "names"),
    (METADATA, b"License-Expression: " + b"(" * 5000, "licence"),
    (METADATA, b"Requires-Python: >=3." + b"9" * 5000, "requirement"),
    (METADATA, b"Requires-Dist: torch[" + b"x," * 5000, "requirement"),
    (METADATA, b"Requires-Dist: torch==2.11.*; python_version == '" + b"9" * 5000 + b"'", "requirement"),
    (WHEEL, b"", "names"),
    (WHEEL, b"Tag: a-b-c-d\nTag:\nWheel-Version: 1.0", "names"),
    (SBOM, b"", "sbom"),
    (SBOM, b"[" * 100_000, "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "metadata": 1}', "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "metadata": {"component": {"properties": [{"value": []}]}}}', "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "components": [{"hashes": {}}]}', "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "components": [{"name": 7}]}', "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "bomFormat": "CycloneDX"}', "sbom"),
    (SBOM, b'{"bomFormat": "CycloneDX", "x": ' + b"9" * 5000 + b"}", "sbom"),
    (FUSED, b"\x7fELF", "record"),
    (FUSED, b"\x7fELF\x02\x01" + b"\xff" * 5000, "record"),
    (FUSED, make_elf(replace(EXTENSIONS["_fused"], fatbin=b"\xff" * 500)), "record"),
]


@pytest.mark.parametrize(("name", "data", "check"), GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_named_without_a_traceback(tmp_path: Path, name: str, data: bytes, check: str) -> None:
    wheel = write(tmp_path / "changed", {**read(ours(tmp_path)), name: data})
    report = audit_wheel(wheel, expect=target_of(wheel, load_targets().values()))
    assert any(text.startswith(f"{check}: ") for text in found(report)), found(report)
    assert not any("it can't be checked" in text for text in found(report)), found(report)


@pytest.mark.parametrize(
    "facts",
    [{"torch": "torch=="}, {"architectures": "9.0 x"}, {"architectures": "9" * 5000}, {"target": "../x"}],
    ids=["torch", "architecture", "number", "target"],
)
def test_odd_facts_in_the_sbom(tmp_path: Path, facts: dict[str, str]) -> None:
    files = read(ours(tmp_path))
    sbom(lambda document: properties(document["metadata"]["component"], **facts))(files)
    wheel = write(tmp_path / "changed", files)
    report = audit_wheel(wheel, expect=target_of(wheel, load_targets().values()))
    assert not any("it can't be checked" in text for text in found(report)), found(report)
    assert facts == {"target": "../x"} or not report.passed


def test_one_odd_wheel_does_not_end_the_report_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = ours(tmp_path)
    folder, machine = wheel.parent, "riscv64"
    for name in (
        NAME.replace("linux_x86_64", f"manylinux_2_34_{machine}"),
        NAME.replace("linux", "manylinux_1_1"),
    ):
        (folder / name).write_bytes(wheel.read_bytes())
    (folder / "not a wheel.whl").write_bytes(b"")
    (folder / NAME.replace("2.2.0", "2.2.1")).mkdir()
    os.mkfifo(folder / NAME.replace("2.2.0", "2.2.2"))
    (folder / NAME.replace("2.2.0", "2.2.3")).symlink_to("nowhere")
    assert main([str(folder)]) == AuditError.exit_code
    said = capsys.readouterr().out
    assert "7 checked, 6 failed" in said
    assert f"manylinux_2_34_{machine} is not a manylinux tag for x86_64 or aarch64" in said


def test_what_a_wheel_holds_is_printed_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = read(ours(tmp_path))
    edit(METADATA, "torch==2.11.*", "torch\x1b[2J\r\n ::set-output name=x::y\u202e")(files)
    wheel = write(tmp_path / "changed", files)
    assert main([str(wheel)]) == AuditError.exit_code
    said = capsys.readouterr().out
    assert "torch\\x1b[2J" in said
    assert not re.search(r"[\x1b\r\u202e]|^\s*::", said, re.MULTILINE)


def lie(offset: int, data: bytes) -> Callable[[bytes], bytes]:
    """Change the header of the first file, and not the archive's directory."""
    return lambda whole: whole[:offset] + data + whole[offset + len(data) :]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lie(8, b"\x08\0"), "contradicts itself about"),
        (lie(14, b"\0\0\0\0"), "contradicts itself about"),
        (lie(22, struct.pack("<I", 5)), "contradicts itself about"),
        (lie(30, b"S"), "contradicts itself about"),
        (lie(6, b"\0\x08"), "contradicts itself about"),
        (lambda whole: b"#!/bin/sh\n" + whole, "belong to no file"),
    ],
)
def test_an_archive_that_contradicts_itself(
    tmp_path: Path, change: Callable[[bytes], bytes], error: str
) -> None:
    wheel = write(tmp_path / "changed", read(ours(tmp_path)))
    wheel.write_bytes(change(wheel.read_bytes()))
    assert any(error in text for text in found(audit_wheel(wheel)))
