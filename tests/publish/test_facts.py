"""Keeping the wheels of an earlier index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_site import WHEELS_URL, Links, files_of, write_site
from made_up_wheels import (
    NATIVE,
    UNIVERSAL,
    make_ours,
)
from static_server import StaticServer

from builder.publish.facts import facts_json, read_facts
from builder.util.errors import DownloadError, UsageError


def test_the_wheels_of_an_earlier_index_are_kept_and_equal_names_replaced(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write_site(wheelhouse, tmp_path / "earlier", "--base-url", "https://example.invalid/v1/")
    new = tmp_path / "new"
    make_ours(new, NATIVE, code="fixed = True\n")
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
    with pytest.raises(DownloadError, match="can't be obtained"):
        write_site(wheelhouse, tmp_path / "site", "--previous", "http://127.0.0.1:9/wheels.json")
    assert files_of(tmp_path / "site") == before


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The wheels.json of an earlier index."""
    folder = tmp_path_factory.mktemp("written")
    make_ours(folder, NATIVE, UNIVERSAL)
    return (write_site(folder, folder / "site", "--base-url", WHEELS_URL) / "wheels.json").read_text()


@pytest.fixture
def earlier(written: str, tmp_path: Path) -> Path:
    """A copy of it, for a test to change."""
    path = tmp_path / "wheels.json"
    path.write_text(written)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_what_was_written_is_read_again(earlier: Path) -> None:
    wheels = read_facts(str(earlier), {"sageattention"})
    assert len(wheels) == 2
    assert facts_json(wheels) == earlier.read_text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("project", "../../../evil"),
        ("project", "/tmp/evil"),
        ("project", "torch"),
        ("cuda", "../../evil"),
        ("cuda", "/tmp/evil"),
        ("cuda", "<script>alert(1)</script>"),
        ("sha256", "<script>alert(1)</script>"),
        ("filename", "../../evil.whl"),
        ("filename", "torch-2.11.0-cp312-cp312-manylinux_2_34_x86_64.whl"),
        ("filename", 1),
        ("version", "99"),
        ("python", "cp313"),
        ("platform", "linux_armv7l"),
        ("url", "javascript:alert(1)"),
        ("url", "https://me:hush@example.invalid/"),
        ("architectures", "8.9"),
        ("architectures", None),
        ("smoke_test", None),
        ("smoke_test", {"outcome": "passed", "evil": 1}),
        ("path", "/etc/passwd"),
        ("record", {}),
        ("evil", True),
        ("complete", 1),
        ("size_bytes", True),
    ],
)
def test_nothing_that_was_fetched_is_used_unchecked(earlier: Path, key: str, value: Any) -> None:
    rewrite(earlier, lambda document: document["wheels"][0].update({key: value}))
    with pytest.raises(UsageError, match=r"is not an index's wheels\.json") as caught:
        read_facts(str(earlier), {"sageattention"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["project", "cuda"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, earlier: Path, key: str) -> None:
    rewrite(earlier, lambda document: document["wheels"][0].update({key: f"../../{tmp_path}/evil"}))
    make_ours(tmp_path / "new", UNIVERSAL)
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=r"is not an index's wheels\.json"):
        write_site(tmp_path / "new", tmp_path / "site", "--base-url", WHEELS_URL, "--previous", str(earlier))
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"schema": 1, "wheels": 3}',
        '{"schema": 1, "wheels": [3]}',
        '{"schema": 1, "wheels": [null, []]}',
        '{"schema": 1, "wheels": [{}]}',
        '{"schema": 2, "wheels": []}',
        '{"schema": NaN, "wheels": []}',
        '{"schema": 1, "wheels": {"a": 1}}',
        '{"schema": 1, "wheels": [' + ", ".join(["{}"] * 10_001) + "]}",
        '{"schema": 1, "wheels": ["\\ud800"]}',
        " " * (16 * 1024 * 1024 + 1),
        "\x00",
    ],
    ids=range(15),
)
def test_a_body_of_another_form_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "wheels.json").write_text(text)
    with pytest.raises(UsageError, match=r"is not an index's wheels\.json"):
        read_facts(str(tmp_path / "wheels.json"), {"sageattention"})


def test_the_wheels_of_other_projects_and_doubles_are_refused(earlier: Path) -> None:
    with pytest.raises(UsageError, match="is a wheel of sageattention, not of flash-attn"):
        read_facts(str(earlier), {"flash-attn"})
    rewrite(earlier, lambda document: document["wheels"].append(document["wheels"][0]))
    with pytest.raises(UsageError, match="twice"):
        read_facts(str(earlier), {"sageattention"})
