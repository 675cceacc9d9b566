"""Which wheels this machine tests, with which Python and torch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.check.smoketest_choice import Trial, belongs_to, choose
from builder.target.machines import MACHINES
from builder.target.targets import load_targets
from builder.wheel.wheelfile import WheelName

TARGETS = load_targets()
PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "linux_x86_64")
NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"
STABLE = "sageattention-2.2.0+cu128.universal-cp310-abi3-linux_x86_64.whl"


def chosen(name: str, requirements: Sequence[str] = (), python: str | None = None) -> Trial | str:
    return choose(Path(name), requirements, TARGETS.values(), platforms=PLATFORMS, python=python)


def accepted(name: str, requirements: Sequence[str] = (), python: str | None = None) -> Trial:
    trial = chosen(name, requirements, python)
    assert isinstance(trial, Trial)
    return trial


def test_wheels_and_their_targets() -> None:
    mine = {name for name, target in TARGETS.items() if belongs_to(WheelName.parse(NATIVE), target)}
    assert mine == {"cp312-cu130"}
    mine = {name for name, target in TARGETS.items() if belongs_to(WheelName.parse(STABLE), target)}
    assert mine == {"abi3-cu128"}


def test_our_wheel_gets_its_targets_torch_not_the_newest_that_it_allows() -> None:
    target = TARGETS["abi3-cu128"]
    trial = chosen(STABLE, ["torch>=2.10"], python="3.12")
    assert trial == Trial(Path(STABLE), "3.12", f"torch=={target.torch}", target.torch_index)


def test_a_native_wheel_gets_its_own_python_whatever_is_asked() -> None:
    assert accepted(NATIVE, python="3.13").python == "3.12"


@pytest.mark.parametrize(
    ("name", "requirements", "requirement", "index"),
    [
        ("x-2.2.0-cp312-cp312-linux_x86_64.whl", [], "torch", None),
        ("x-2.2.0-cp312-cp312-linux_x86_64.whl", ["numpy", "torch==2.8.*"], "torch==2.8.*", None),
        ("x-2.2.0+cu128torch2.8-cp312-cp312-linux_x86_64.whl", ["torch"], "torch==2.8.*", "cu128"),
    ],
)
def test_another_projects_wheel_gets_what_it_names(
    name: str, requirements: list[str], requirement: str, index: str | None
) -> None:
    trial = accepted(name, requirements)
    assert trial.requirement == requirement
    assert trial.torch_index == (index and f"https://download.pytorch.org/whl/{index}")


def test_a_stable_wheel_is_tested_with_this_python() -> None:
    assert accepted(STABLE).python == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_this_machine_can_not_run() -> None:
    assert chosen("x-1-cp312-cp312-win_amd64.whl") == "is for win_amd64"
    other = next(machine.name for machine in MACHINES if not machine.is_here)
    assert chosen(f"x-1-cp310-abi3-manylinux_2_34_{other}.whl") == (
        f"is for {other}, and this machine is {platform.machine()}"
    )
    assert chosen("x-1-cp312-cp312-manylinux_2_38_x86_64.whl") == "is for manylinux_2_38_x86_64"
    assert chosen("x-1-cp312-abi3-linux_x86_64.whl", python="3.11") == "needs Python 3.12 or later"
    assert isinstance(chosen("x-1-py3-none-any.whl"), Trial)
