"""What is read from a wheel's file name."""

from __future__ import annotations

from typing import Any

import pytest

from builder.wheel.label import WheelError, WheelLabel, torch_requirement

NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"


def test_the_parts_of_a_name() -> None:
    label = WheelLabel.parse(NATIVE)
    assert (label.distribution, label.version) == ("sageattention", "2.2.0+cu130.torch2.11")
    assert (label.tag, label.machine) == ("cp312-cp312-linux_x86_64", "x86_64")
    several = WheelLabel.parse("a_b-1.0-1-py2.py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.whl")
    assert (several.version, several.python) == ("1.0", "py2.py3")
    assert (several.machine, len(several.tags)) == ("aarch64", 4)
    assert WheelLabel.parse("a-1.0-py3-none-any.whl").machine == ""


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("+cu130.torch2.11", {"cuda": "13.0", "torch": "2.11"}),
        ("+cu128.universal", {"cuda": "12.8", "universal": True}),
        ("+cu130.torch2.11.sm89.sm90a", {"cuda": "13.0", "torch": "2.11", "architectures": ("89", "90a")}),
        ("+cu130.universal.2", {"cuda": "13.0", "universal": True, "revision": 2}),
        ("+cu130.torch2.11.12", {"cuda": "13.0", "torch": "2.11", "revision": 12}),
        ("+cu130.universal.2.sm90a", {"cuda": "13.0", "architectures": ("90a",), "revision": 2}),
        ("+cu128torch2.8.1", {"cuda": "12.8", "torch": "2.8"}),
        ("+cu130_torch2.9", {"cuda": "13.0", "torch": "2.9"}),
        ("+pt28cuda128", {"cuda": "12.8"}),
        ("+cu12", {"torch_index": None}),
        ("+cu130", {"cuda": "13.0", "torch_index": "https://download.pytorch.org/whl/cu130"}),
        ("+someones.own", {}),
        ("", {"local_version": "", "universal": False, "architectures": ()}),
    ],
)
def test_local_versions(local: str, expected: dict[str, Any]) -> None:
    label = WheelLabel.parse(f"sageattention-2.2.0{local}-py3-none-any.whl")
    expected = {"cuda": "", "torch": "", "revision": 0, **expected}
    assert {name: getattr(label, name) for name in expected} == expected


@pytest.mark.parametrize(
    "name", ["a.whl", "a-1.0-cp312.whl", "a-x-cp312-cp312-any.whl", "a-1.0-py3-none-any.zip"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(WheelError, match="not the name of a wheel"):
        WheelLabel.parse(name)


def test_the_requirement_on_torch() -> None:
    assert str(torch_requirement(["numpy", "no requirement", "Torch>=2.7"])) == "Torch>=2.7"
    assert torch_requirement(None) is None
