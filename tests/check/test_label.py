"""What local versions say."""

from __future__ import annotations

import pytest

from builder.check.label import Label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cu130.torch2.11", Label("13.0", "2.11", False, ())),
        ("cu128.universal", Label("12.8", "", True, ())),
        ("cu130.torch2.11.sm89.sm90a", Label("13.0", "2.11", False, ("89", "90a"))),
        ("cu128torch2.8.0", Label("12.8", "2.8", False, ())),
        ("", Label("", "", False, ())),
        ("pt28cuda128", Label("12.8", "", False, ())),
        ("cu12", Label("", "", False, ())),
        ("someones.own", Label("", "", False, ())),
    ],
)
def test_local_versions(text: str, label: Label) -> None:
    assert Label.parse(text) == label
