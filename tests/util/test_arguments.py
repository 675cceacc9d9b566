"""A wrong argument is an error like any other: no usage dump, and no exit."""

from __future__ import annotations

import pytest

from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import UsageError


def test_a_wrong_argument_raises_with_the_way_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="nox -s lint --")
    parser.add_argument("--count", type=int)
    assert parser.parse_args(["--count", "3"]).count == 3
    with pytest.raises(UsageError) as caught:
        parser.parse_args(["--count", "x"])
    assert str(caught.value) == "Argument --count: invalid value: 'x'.\n  See nox -s lint -- --help."
    assert capsys.readouterr() == ("", "")


def test_what_goes_into_pages_and_notes_is_checked() -> None:
    parser = Parser(prog="nox -s index --")
    parser.add_argument("--url", type=published_address)
    parser.add_argument("--repository", type=repository)
    options = parser.parse_args(["--url", "http://example.org/a", "--repository", "so-me/w.he_els"])
    assert (options.url, options.repository) == ("http://example.org/a/", "so-me/w.he_els")
    for argument in ("https://me:hush@example.org", "https://x/?hush", "example.org", "https://[::1", ""):
        with pytest.raises(UsageError, match="not an http or https address") as caught:
            parser.parse_args(["--url", argument])
        assert "hush" not in str(caught.value)
    for argument in ("", "a", "a/b/c", "../..", "./b", "a/..", "a/b\n", "a/<b>", "a/b c", "ä/b"):
        with pytest.raises(UsageError, match="is not a repository, OWNER/NAME"):
            parser.parse_args(["--repository", argument])
