"""Asking for pages: what they link to, and where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from static_server import serving

from builder.publish.web import NotAskedError, Web, linked_names


def test_links_are_file_names() -> None:
    page = '<p><a href="/a/b-1%2Bcu130.whl#sha256=0">b</a> <a name="c">c</a> <a href="redistrib_1.json">d</a>'
    assert linked_names(page) == ["b-1+cu130.whl", "redistrib_1.json"]


def test_a_mirror_is_asked_for_all_under_its_address_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "it.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[]")
    with serving(tmp_path) as server:
        web = Web({"https://mirrored.invalid/whl": server.url})
        assert web.json("https://mirrored.invalid/whl/it.json") == {"a": 1}
        with pytest.raises(NotAskedError, match="without a JSON object"):
            web.json("https://mirrored.invalid/whl/list.json")
        with pytest.raises(NotAskedError, match="404"):
            web.links("https://mirrored.invalid/whl/absent")
        before = len(server.requests)
        with pytest.raises(NotAskedError):
            Web({"http://127.0.0.1:9/whl": server.url}).json("http://127.0.0.1:9/whl2/it.json")
        assert len(server.requests) == before
