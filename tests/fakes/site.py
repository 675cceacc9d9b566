"""Sites that the index's command writes, and what is in them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from builder.publish import index

WHEELS_URL = "https://github.com/someone/wheels/releases/download/v1/"


class Links(HTMLParser):
    """The anchors of a page: their attributes, and their text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: list[dict[str, str]] = []
        self.texts: list[str] = []
        self._inside = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.anchors.append({name: value or "" for name, value in attrs})
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts.append(data)


def write_site(wheelhouse: Path, out: Path, *arguments: str) -> Path:
    assert index.main(["--wheelhouse", str(wheelhouse), "--out", str(out), *arguments]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
