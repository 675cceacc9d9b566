"""A wrong argument is an error like any other: no usage dump, and no exit."""

from __future__ import annotations

import pytest

from builder.util.arguments import Parser
from builder.util.errors import UsageError


def test_a_wrong_argument_raises_with_the_way_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="nox -s lint --")
    parser.add_argument("--count", type=int)
    assert parser.parse_args(["--count", "3"]).count == 3
    with pytest.raises(UsageError) as caught:
        parser.parse_args(["--count", "x"])
    assert str(caught.value) == "Argument --count: invalid int value: 'x'.\n  See nox -s lint -- --help."
    assert capsys.readouterr() == ("", "")
