"""What goes into a template stays text, and nothing is left blank."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from builder.publish.markup import render


def test_a_value_can_not_become_markup() -> None:
    text = '"><script>alert(1)</script>'
    project = {"filename": text, "url": text, "hashes": {"sha256": text}, "core-metadata": {"sha256": text}}
    page = render("simple.html", page={"meta": {"api-version": "1.1"}, "name": text, "files": [project]})
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="page"):
        render("simple.html")
