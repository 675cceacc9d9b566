"""What is known of a wheel, and which wheels are refused."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from made_up_wheels import (
    INCOMPLETE,
    NATIVE,
    OLDER_CUDA,
    UNIVERSAL,
    UNVERIFIED,
    make_ours,
    make_wheel,
    write_record,
    write_report,
)

from builder.publish import catalogue
from builder.util.errors import UsageError


def test_an_incomplete_wheel_is_known_by_its_name_without_a_record(tmp_path: Path) -> None:
    wheel = catalogue.read_wheel(make_wheel(tmp_path, INCOMPLETE))
    assert (wheel.complete, wheel.architectures, wheel.cuda) == (False, ("8.9",), "cu130")


def test_a_record_or_report_with_a_different_digest_is_refused(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    for told in ({"sha256": "0" * 64}, {}):
        report = write_report(wheel, wheel=told)
        with pytest.raises(UsageError, match=f"{re.escape(report.name)}: it has a different SHA-256"):
            catalogue.read_wheel(wheel)
    report.unlink()
    write_record(wheel, wheel={"sha256": "0" * 64})
    with pytest.raises(UsageError, match=f"{re.escape(NATIVE)}: its record has a different SHA-256"):
        catalogue.read_wheel(wheel)


def test_what_is_not_a_wheel_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / NATIVE).write_bytes(b"half a whe")
    with pytest.raises(UsageError, match=re.escape(NATIVE)):
        catalogue.read_wheel(tmp_path / NATIVE)
    with pytest.raises(UsageError, match="no wheel"):
        catalogue.find_wheels([], tmp_path / "nowhere")
    renamed = make_wheel(tmp_path, UNIVERSAL).rename(tmp_path / OLDER_CUDA)
    with pytest.raises(UsageError, match="METADATA is for"):
        catalogue.read_wheel(renamed)
    plain = make_wheel(tmp_path, "sageattention-2.2.0-cp312-cp312-linux_x86_64.whl")
    with pytest.raises(UsageError, match="CUDA version"):
        catalogue.read_wheel(plain)


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        ({}, "passed"),
        ({"exit_code": 1, "outcome": "failures"}, "failed"),
        ({"exit_code": 25, "outcome": "sageattention-not-importable"}, "failed"),
        ({"exit_code": 20, "outcome": "no-gpu"}, "not run"),
        ({"exit_code": 27, "outcome": "stand-in"}, "not run"),
        ({"mode": "import-only"}, "not run"),
    ],
)
def test_only_a_smoke_test_on_a_gpu_that_passed_is_one(
    tmp_path: Path, report: dict[str, Any], outcome: str
) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    assert catalogue.read_wheel(wheel).smoke_test.outcome == "not run"
    write_report(wheel, **report)
    assert catalogue.read_wheel(wheel).smoke_test.outcome == outcome


@pytest.mark.parametrize("report", [{"exit_code": False}, {"exit_code": 0.0}, {"exit_code": "0"}])
def test_what_only_equals_a_pass_is_none(tmp_path: Path, report: dict[str, Any]) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    write_report(wheel, **report)
    assert catalogue.read_wheel(wheel).smoke_test.outcome == "not run"


def test_a_record_that_its_sbom_contradicts_is_refused(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE, source=UNVERIFIED)
    assert catalogue.read_wheel(wheel).verified is False
    write_record(wheel, source={**UNVERIFIED, "verified": True})
    with pytest.raises(UsageError, match=r"contradicts its SBOM: source\.verified is True"):
        catalogue.read_wheel(wheel)
    write_record(wheel, source=UNVERIFIED, architectures=["9.0a"])
    with pytest.raises(UsageError, match="contradicts its SBOM: architectures"):
        catalogue.read_wheel(wheel)


def test_a_record_alone_verifies_nothing(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, NATIVE, ["torch==2.11.*"])
    write_record(wheel)
    assert catalogue.read_wheel(wheel).verified is False
    (wheel,) = make_ours(tmp_path, UNIVERSAL)
    assert catalogue.read_wheel(wheel).verified is True
    wheel.with_name(f"{UNIVERSAL}.json").unlink()
    assert catalogue.read_wheel(wheel).verified is False


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"a": NaN}', '{"a": "\\ud800"}', "\x00"])
@pytest.mark.parametrize("suffix", [".json", ".smoketest.json"])
def test_a_file_beside_a_wheel_that_can_t_be_read_is_named(tmp_path: Path, content: str, suffix: str) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    wheel.with_name(f"{NATIVE}{suffix}").write_text(content)
    with pytest.raises(UsageError, match=re.escape(f"{NATIVE}{suffix}: it ")):
        catalogue.read_wheel(wheel)


def test_what_a_killed_build_began_to_publish_is_finished_first(tmp_path: Path) -> None:
    """The new wheel is there, the old record still is, and the rest waits in a folder."""
    (new,) = make_ours(tmp_path / ".committed", NATIVE, code="new = True\n")
    make_ours(tmp_path, NATIVE)
    new.replace(tmp_path / NATIVE)
    (found,) = catalogue.find_wheels([], tmp_path)
    assert catalogue.read_wheel(found).verified is True
    assert not (tmp_path / ".committed").exists()


@pytest.mark.parametrize("version", ["", "x", "2.2.1"])
def test_metadata_with_a_version_that_is_none_is_an_error(tmp_path: Path, version: str) -> None:
    wheel = make_wheel(tmp_path, NATIVE)
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            text = f"Name: sageattention\nVersion: {version}\n"
            archive.writestr(name, text if name.endswith("METADATA") else data)
    with pytest.raises(UsageError, match=re.escape(NATIVE)):
        catalogue.read_wheel(wheel)
