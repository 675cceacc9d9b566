"""The command that writes the index: what it lists, what it refuses, and what it keeps of an earlier one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.index_wheels import (
    INCOMPLETE,
    NATIVE,
    NATIVE_BASIC,
    OLDER_CUDA,
    UNIVERSAL,
    make_ours,
    make_wheel,
    write_report,
)
from fakes.site import WHEELS_URL, Links, files_of, write_site
from fakes.static_server import StaticServer

from builder.publish import entries, index
from builder.util.errors import DownloadError, UsageError


def test_with_a_base_address_nothing_is_copied(wheelhouse: Path, tmp_path: Path) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--base-url", WHEELS_URL.rstrip("/"))
    assert {path.suffix for path in site.rglob("*") if path.is_file()} == {".html", ".json", ".v1_json"}
    href = Links(site / "cu128" / "sageattention" / "index.html").anchors[0]["href"]
    assert href.partition("#")[0] == WHEELS_URL + OLDER_CUDA.replace("+", "%2B")


def test_the_same_wheels_give_the_same_bytes_in_any_order_and_at_any_time(
    wheelhouse: Path, tmp_path: Path
) -> None:
    uploaded = ["--uploaded", "2026-11-01T10:00:00Z"]
    first = files_of(write_site(wheelhouse, tmp_path / "first", *uploaded))
    wheels = sorted(map(str, wheelhouse.glob("*.whl")), reverse=True)
    for wheel in wheels:
        os.utime(wheel, (1, 1))
    second = tmp_path / "elsewhere" / "second"
    assert index.main([*wheels, "--out", str(second), *uploaded]) == 0
    assert files_of(second) == first


def test_a_site_is_replaced_whole_and_stays_as_it_was_when_writing_fails(
    wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_site(wheelhouse, tmp_path / "site")
    (wheelhouse / OLDER_CUDA).unlink()
    write_site(wheelhouse, site)
    assert not (site / "cu128").exists()
    before = files_of(site)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UsageError, match=r"can't be written: .*No space left"):
        write_site(wheelhouse, site)
    assert files_of(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "wheelhouse"]


def test_a_folder_that_is_not_an_index_is_not_replaced(wheelhouse: Path, tmp_path: Path) -> None:
    precious = tmp_path / "photos" / "cat.png"
    precious.parent.mkdir()
    precious.write_bytes(b"meow")
    with pytest.raises(UsageError, match="is not an index"):
        write_site(wheelhouse, precious.parent)
    assert precious.read_bytes() == b"meow"


def test_a_wheel_that_lacks_architectures_is_refused_unless_allowed(wheelhouse: Path, tmp_path: Path) -> None:
    make_ours(wheelhouse, INCOMPLETE)
    with pytest.raises(UsageError, match=re.escape(INCOMPLETE)):
        write_site(wheelhouse, tmp_path / "site")
    site = write_site(wheelhouse, tmp_path / "site", "--allow-incomplete")
    assert INCOMPLETE in Links(site / "cu130" / "sageattention" / "index.html").texts


def test_a_foreign_wheel_of_the_wheelhouse_is_left_out_and_a_named_one_is_an_error(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = make_wheel(wheelhouse, "torch-2.11.0+cu130-cp312-cp312-manylinux_2_28_x86_64.whl")
    damaged = wheelhouse / NATIVE
    damaged.write_bytes(b"half a whe")
    site = write_site(wheelhouse, tmp_path / "site")
    assert sorted(path.name for path in (site / "cu130").iterdir() if path.is_dir()) == ["sageattention"]
    assert Links(site / "cu130" / "sageattention" / "index.html").texts == [UNIVERSAL]
    warnings = capsys.readouterr().err
    for wheel in (torch, damaged):
        assert wheel.name in warnings
        with pytest.raises(UsageError, match=re.escape(wheel.name)):
            index.main([str(wheel), "--out", str(tmp_path / "other")])
        wheel.unlink()
    make_wheel(tmp_path / "foreign", "numpy-2.0-cp312-cp312-linux_x86_64.whl")
    for folder in (tmp_path / "foreign", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"no wheel in|None of the wheels"):
            write_site(folder, tmp_path / "other")


def test_basic_wheels_alone_are_no_index(tmp_path: Path) -> None:
    make_ours(tmp_path / "wheelhouse", NATIVE_BASIC)
    with pytest.raises(UsageError, match="only basic wheels"):
        write_site(tmp_path / "wheelhouse", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_basic_wheel_without_its_pep_600_wheel_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_ours(tmp_path / "wheelhouse", NATIVE_BASIC, UNIVERSAL)
    site = write_site(tmp_path / "wheelhouse", tmp_path / "site")
    assert NATIVE_BASIC in capsys.readouterr().err
    assert Links(site / "cu130" / "sageattention" / "index.html").texts == [UNIVERSAL]
    assert (site / "basic" / NATIVE_BASIC).is_file()


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        ({}, "passed"),
        ({"exit_code": 1}, "failed"),
        ({"exit_code": 25}, "failed"),
        ({"exit_code": 20}, "not run"),
        ({"mode": "import-only"}, "not run"),
    ],
)
def test_only_a_smoke_test_on_a_gpu_that_passed_is_one(
    tmp_path: Path, report: dict[str, Any], outcome: str
) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    assert entries.read_entry(wheel).smoke_test["outcome"] == "not run"
    write_report(wheel, **report)
    assert entries.read_entry(wheel).smoke_test["outcome"] == outcome


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "can't be read"),
        ("\x00", "can't be read"),
        ('{"wheel": {"sha256": "0"}, "exit_code": 0, "environment": {}}', "different SHA-256"),
    ],
)
def test_a_report_that_is_not_of_the_wheel_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    report = wheel.with_name(f"{NATIVE}.smoketest.json")
    report.write_text(content)
    with pytest.raises(UsageError, match=f"{re.escape(report.name)}.* {message}"):
        write_site(tmp_path, tmp_path / "site")


def test_the_wheels_of_an_earlier_index_are_kept_and_equal_names_replaced(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write_site(wheelhouse, tmp_path / "earlier", "--base-url", "https://example.invalid/v1/")
    make_ours(tmp_path / "new", NATIVE, code="fixed = True\n")
    options = ["--base-url", "https://example.invalid/v2/", "--previous", str(earlier / "wheels.json")]
    site = write_site(tmp_path / "new", tmp_path / "site", *options)
    links = Links(site / "cu130" / "sageattention" / "index.html")
    hrefs = zip(links.anchors, links.texts, strict=True)
    assert {anchor["href"].split("/")[3]: text for anchor, text in hrefs} == {"v1": UNIVERSAL, "v2": NATIVE}
    assert (site / "cu128" / "sageattention" / "index.html").is_file()
    assert NATIVE in capsys.readouterr().err
    assert len(json.loads((site / "wheels.json").read_text())["wheels"]) == 5


def times(site: Path) -> dict[str, str]:
    document = json.loads((site / "wheels.json").read_text())
    return {wheel["filename"]: wheel["uploaded"] for wheel in document["wheels"]}


def test_a_wheel_keeps_the_time_when_it_was_published(wheelhouse: Path, tmp_path: Path) -> None:
    options = ["--base-url", WHEELS_URL, "--uploaded"]
    site = write_site(wheelhouse, tmp_path / "site", *options, "2026-11-01T10:00:00+02:00")
    assert set(times(site).values()) == {"2026-11-01T08:00:00Z"}
    before = files_of(site)
    assert files_of(write_site(wheelhouse, site, *options[:2])) == before, "the site itself knows the times"
    make_ours(wheelhouse, NATIVE, code="changed = True\n")
    (wheelhouse / OLDER_CUDA).unlink()
    options += ["2026-11-02T10:00:00Z", "--previous", str(site / "wheels.json")]
    later = times(write_site(wheelhouse, tmp_path / "later", *options))
    assert later.pop(NATIVE) == "2026-11-02T10:00:00Z"
    assert OLDER_CUDA in later
    assert set(later.values()) == {"2026-11-01T08:00:00Z"}
    for text in ("yesterday", "2026-11-02T10:00:00"):
        with pytest.raises(UsageError, match="--uploaded: "):
            write_site(wheelhouse, site, "--uploaded", text)


def test_an_earlier_index_that_can_not_be_obtained_stops_the_new_one(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], StaticServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "www").mkdir()
    address = serve(tmp_path / "www").url
    write_site(wheelhouse, tmp_path / "site", "--previous", f"{address}/wheels.json")
    before = files_of(tmp_path / "site")
    with pytest.raises(UsageError, match="serves the file itself"):
        write_site(wheelhouse, tmp_path / "site", "--previous", str(tmp_path / "site" / "wheels.json"))
    (tmp_path / "www" / "wheels.json").write_text("<html>Sorry")
    with pytest.raises(UsageError, match="is not an index"):
        write_site(wheelhouse, tmp_path / "site", "--previous", f"{address}/wheels.json")
    with pytest.raises(DownloadError):
        write_site(wheelhouse, tmp_path / "site", "--previous", "http://127.0.0.1:9/wheels.json")
    assert files_of(tmp_path / "site") == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filename", "../../evil-1.0+cu130-py3-none-linux_x86_64.whl"),
        ("filename", "/evil/sageattention-1.0+cu130-py3-none-linux_x86_64.whl"),
        ("filename", 1),
        ("url", "javascript:alert(1)"),
    ],
)
def test_what_was_fetched_makes_no_path_and_no_script(
    wheelhouse: Path, tmp_path: Path, key: str, value: object
) -> None:
    site = write_site(wheelhouse, tmp_path / "earlier", "--base-url", WHEELS_URL)
    document = json.loads((site / "wheels.json").read_text())
    document["wheels"][0] |= {key: value}
    (tmp_path / "wheels.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"is not an index's wheels\.json|no address of its own"):
        write_site(wheelhouse, tmp_path / "site", "--previous", str(tmp_path / "wheels.json"))


@pytest.mark.parametrize("key", ["project", "cuda"])
def test_folders_are_made_from_file_names_alone(wheelhouse: Path, tmp_path: Path, key: str) -> None:
    site = write_site(wheelhouse, tmp_path / "earlier", "--base-url", WHEELS_URL)
    before = (site / "wheels.json").read_text()
    document = json.loads(before)
    for wheel in document["wheels"]:
        wheel[key] = f"../../{tmp_path}/evil"
    (tmp_path / "wheels.json").write_text(json.dumps(document))
    make_ours(tmp_path / "new", NATIVE)
    options = ["--base-url", WHEELS_URL, "--previous", str(tmp_path / "wheels.json")]
    assert (write_site(tmp_path / "new", tmp_path / "site", *options) / "wheels.json").read_text() == before
