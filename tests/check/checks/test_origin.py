"""SBOMs, licences and links that don't fit the wheel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_up_audits import EXTENSIONS, INFO, NAME, NATIVE, RUNTIME, found, only_error, ours, raw_wheel, told
from made_up_libraries import Elf, make_elf

from builder.check.audit import audit_wheel
from builder.finish.finalize import finalize
from builder.target.project import Project
from builder.wheel.rewrite import rewrite


def test_changed_bytes_with_a_record_that_was_mended(tmp_path: Path) -> None:
    wheel = ours(tmp_path)
    other = make_elf(replace(EXTENSIONS["_qattn_sm90"], data=b"other"))
    made = rewrite(wheel, tmp_path / "out", add={"sageattention/lib/_qattn_sm90.so": other}, epoch=0)
    assert (
        only_error(audit_wheel(made))
        == "sbom: sageattention/lib/_qattn_sm90.so has a different SHA-256 in the SBOM"
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
    source = replace(told().source, kind="directory", location="fork", tag="")
    made = finalize(raw_wheel(tmp_path), replace(told(), source=source), tmp_path / "ours")
    report = audit_wheel(made, expect=NATIVE)
    assert report.passed
    assert found(report, "warning") == ["sbom: built from an unverified source: fork"]


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
        "description: METADATA doesn't link the project that built it (builder/target/project.toml)"
    ]
