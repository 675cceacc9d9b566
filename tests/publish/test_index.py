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
    WHEELS_URL,
    files_of,
    links,
    make_ours,
    make_wheel,
    write_report,
    write_site,
)
from fakes.static_server import StaticServer

from builder.publish import entries, index
from builder.util.errors import BuilderError, DownloadError, UsageError


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


def test_wheels_that_should_not_be_published_are_named(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            write_site(tmp_path / name, tmp_path / "site")

    refused("nowhere", "There is no wheel in")
    make_ours(tmp_path / "basic", NATIVE_BASIC)
    refused("basic", "no PEP 600 wheel")
    make_ours(tmp_path / "incomplete", INCOMPLETE)
    refused("incomplete", re.escape(INCOMPLETE))
    assert not (tmp_path / "site").exists()
    site = write_site(tmp_path / "incomplete", tmp_path / "site", "--allow-incomplete")
    assert [*links(site / "cu130" / "sageattention")] == [INCOMPLETE]


def test_a_wheel_of_others_is_left_out_of_the_wheelhouses_index_and_refused_by_name(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(write_site(wheelhouse, tmp_path / "before", "--uploaded", "2026-11-01T10:00:00Z"))
    others = "torch-2.11.0+cu130-cp312-cp312-manylinux_2_28_x86_64.whl"
    make_wheel(wheelhouse, others)
    (wheelhouse / "sageattention-9-py3-none-any.whl").write_bytes(b"half a whe")
    after = files_of(write_site(wheelhouse, tmp_path / "after", "--uploaded", "2026-11-01T10:00:00Z"))
    assert after == before
    assert f"{others} is not of this project" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not of this project"):
        index.main([str(wheelhouse / others), "--out", str(tmp_path / "site")])


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
    path = write_report(wheel, **report)
    assert entries.read_entry(wheel).smoke_test["outcome"] == outcome
    make_ours(tmp_path, NATIVE, code="changed = True\n")
    with pytest.raises(UsageError, match=f"{re.escape(path.name)}: it has a different SHA-256"):
        entries.read_entry(wheel)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"wheel": 1}'])
def test_a_damaged_report_is_one_error(tmp_path: Path, content: str) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    write_report(wheel).write_text(content)
    with pytest.raises(UsageError, match=r"smoketest\.json is not the report of a smoke test"):
        write_site(tmp_path, tmp_path / "site")


def test_the_wheels_of_an_earlier_index_are_kept_and_equal_names_replaced(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write_site(wheelhouse, tmp_path / "earlier", "--base-url", "https://example.invalid/v1/")
    make_ours(tmp_path / "new", NATIVE, code="fixed = True\n")
    options = ["--base-url", "https://example.invalid/v2/", "--previous", str(earlier / "wheels.json")]
    site = write_site(tmp_path / "new", tmp_path / "site", *options)
    folders = {
        name: link["href"].split("/")[3] for name, link in links(site / "cu130" / "sageattention").items()
    }
    assert folders == {UNIVERSAL: "v1", NATIVE: "v2"}
    assert (site / "cu128" / "sageattention" / "index.html").is_file()
    assert NATIVE in capsys.readouterr().err
    assert len(json.loads((site / "wheels.json").read_text())["wheels"]) == 5


def test_a_wheel_keeps_the_time_when_it_was_published(wheelhouse: Path, tmp_path: Path) -> None:
    def times(site: Path) -> dict[str, str]:
        document = json.loads((site / "wheels.json").read_text())
        return {wheel["filename"]: wheel["uploaded"] for wheel in document["wheels"]}

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
    address = f"{serve(tmp_path / 'www').url}/wheels.json"
    site = write_site(wheelhouse, tmp_path / "site", "--previous", address)  # 404: this is the first one
    before = files_of(site)
    served, script = json.loads(before["wheels.json"]), json.loads(before["wheels.json"])
    script["wheels"][0]["url"] = "javascript:alert(1)"
    path = json.loads(before["wheels.json"])
    path["wheels"] = [{**path["wheels"][0], "filename": "../../a-1-py3-none-any.whl", "url": "https://a"}]
    for content, message in (
        (json.dumps(served), "serves the file itself"),
        (json.dumps(script), "no address of its own"),
        (json.dumps(path), "not the name of a wheel"),
        ("<html>Sorry", "is not an index"),
    ):
        (tmp_path / "www" / "wheels.json").write_text(content)
        with pytest.raises(BuilderError, match=message):
            write_site(wheelhouse, site, "--previous", address)
    with pytest.raises(UsageError, match="No such file"):
        write_site(wheelhouse, site, "--previous", str(tmp_path / "nothing.json"))
    with pytest.raises(DownloadError):
        write_site(wheelhouse, site, "--previous", "http://127.0.0.1:9/wheels.json")
    assert files_of(site) == before
