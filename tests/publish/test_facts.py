"""Keeping the wheels of an earlier index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_site import Links, files_of, write_site
from made_up_wheels import (
    NATIVE,
    UNIVERSAL,
    make_ours,
    make_wheel,
    write_record,
)
from static_server import StaticServer

from builder.util.errors import DownloadError, UsageError


def test_the_wheels_of_an_earlier_index_are_kept_and_equal_names_replaced(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write_site(wheelhouse, tmp_path / "earlier", "--base-url", "https://example.invalid/v1/")
    new = tmp_path / "new"
    (wheel,) = make_ours(new, NATIVE)
    make_wheel(new, NATIVE, ["torch==2.11.*"], "==3.12.*", code="fixed = True\n")
    write_record(wheel)
    site = write_site(
        new,
        tmp_path / "site",
        "--base-url",
        "https://example.invalid/v2/",
        "--previous",
        str(earlier / "wheels.json"),
    )
    links = Links(site / "cu130" / "sageattention" / "index.html")
    assert {link["href"].split("/")[3]: name for link, name in zip(links.found, links.text, strict=True)} == {
        "v1": UNIVERSAL,
        "v2": NATIVE,
    }
    assert (site / "cu128" / "sageattention" / "index.html").is_file()
    assert NATIVE in capsys.readouterr().err
    assert len(json.loads((site / "wheels.json").read_text())["wheels"]) == 5


def test_an_earlier_index_that_can_not_be_obtained_stops_the_new_one(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], StaticServer]
) -> None:
    (tmp_path / "www").mkdir()
    address = serve(tmp_path / "www").url
    write_site(wheelhouse, tmp_path / "site", "--previous", f"{address}/wheels.json")
    before = files_of(tmp_path / "site")
    with pytest.raises(UsageError, match="serves the file itself"):
        write_site(wheelhouse, tmp_path / "site", "--previous", str(tmp_path / "site" / "wheels.json"))
    (tmp_path / "www" / "wheels.json").write_text("<html>Sorry")
    with pytest.raises(UsageError, match="is not an index"):
        write_site(wheelhouse, tmp_path / "site", "--previous", f"{address}/wheels.json")
    with pytest.raises(DownloadError, match="does not answer"):
        write_site(wheelhouse, tmp_path / "site", "--previous", "http://127.0.0.1:9/wheels.json")
    assert files_of(tmp_path / "site") == before
