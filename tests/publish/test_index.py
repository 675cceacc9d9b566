"""The command that writes the index: what it refuses, and what is in the folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from made_up_site import WHEELS_URL, Links, files_of, write_site
from made_up_wheels import (
    INCOMPLETE,
    NATIVE_BASIC,
    OLDER_CUDA,
    UNIVERSAL,
    make_ours,
)

from builder.publish import catalogue, index
from builder.publish.page import Page
from builder.util.errors import UsageError


def test_with_a_base_address_nothing_is_copied(wheelhouse: Path, tmp_path: Path) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--base-url", WHEELS_URL.rstrip("/"))
    assert {path.suffix for path in site.rglob("*") if path.is_file()} == {".html", ".json", ".v1_json"}
    href = Links(site / "cu128" / "sageattention" / "index.html").found[0]["href"]
    assert href.partition("#")[0] == WHEELS_URL + OLDER_CUDA.replace("+", "%2B")


def test_the_same_wheels_give_the_same_bytes_in_any_order_and_at_any_time(
    wheelhouse: Path, tmp_path: Path
) -> None:
    first = files_of(write_site(wheelhouse, tmp_path / "first"))
    wheels = sorted(map(str, wheelhouse.glob("*.whl")), reverse=True)
    for wheel in wheels:
        os.utime(wheel, (1, 1))
    second = tmp_path / "elsewhere" / "second"
    assert index.main([*wheels, "--out", str(second)]) == 0
    assert files_of(second) == first


def test_a_site_is_replaced_whole_and_stays_as_it_was_when_writing_fails(
    wheelhouse: Path, tmp_path: Path
) -> None:
    site = write_site(wheelhouse, tmp_path / "site")
    (wheelhouse / OLDER_CUDA).unlink()
    write_site(wheelhouse, site)
    assert not (site / "cu128").exists()
    before = files_of(site)
    placed = index.place([catalogue.read_wheel(wheelhouse / UNIVERSAL)], None)
    (wheelhouse / UNIVERSAL).unlink()
    with pytest.raises(UsageError, match="can't be"):
        index.write_site(placed, Page(), site)
    assert files_of(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "wheelhouse"]


def test_a_folder_that_is_not_an_index_is_not_replaced(wheelhouse: Path, tmp_path: Path) -> None:
    precious = tmp_path / "photos" / "cat.png"
    precious.parent.mkdir()
    precious.write_bytes(b"meow")
    with pytest.raises(UsageError, match="is not an index"):
        write_site(wheelhouse, precious.parent)
    assert precious.read_bytes() == b"meow"


def test_a_folder_that_can_t_be_made_is_one_error(wheelhouse: Path, tmp_path: Path) -> None:
    for out in (tmp_path / ("x" * 300), Path("/proc/site")):
        with pytest.raises(UsageError, match="can't be written"):
            write_site(wheelhouse, out)


def test_an_empty_variable_counts_as_none(
    wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "")
    assert "gh attestation" not in (write_site(wheelhouse, tmp_path / "site") / "index.html").read_text()


def test_a_wheel_that_lacks_architectures_is_refused_unless_allowed(wheelhouse: Path, tmp_path: Path) -> None:
    make_ours(wheelhouse, INCOMPLETE, complete=False, architectures=["8.9"])
    with pytest.raises(UsageError, match=re.escape(INCOMPLETE)):
        write_site(wheelhouse, tmp_path / "site")
    site = write_site(wheelhouse, tmp_path / "site", "--allow-incomplete")
    assert INCOMPLETE in Links(site / "cu130" / "sageattention" / "index.html").text


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
    assert Links(site / "cu130" / "sageattention" / "index.html").text == [UNIVERSAL]
    assert (site / "basic" / NATIVE_BASIC).is_file()
