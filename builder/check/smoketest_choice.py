"""Which Python and torch a wheel is smoke-tested with."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.check.label import Label, torch_requirement
from builder.target.machines import machine_of
from builder.target.targets import Target
from builder.wheel.wheelfile import WheelName


@dataclass(frozen=True)
class Trial:
    """A wheel, and what it is tested with.

    Attributes:
        python: Version or path of the Python.
        requirement: The torch that is installed first.
        torch_index: Package index of builds for the wheel's CUDA version; None for the default index.
    """

    wheel: Path
    python: str
    requirement: str
    torch_index: str | None


def belongs_to(name: WheelName, target: Target) -> bool:
    """Return whether a wheel is one of a target's, by its file name."""
    tag = f"{name.python}-{name.abi}" if name.abi == "abi3" else name.python
    if machine_of(name.platform) != target.machine:
        return False
    return tag == target.python_tag and name.local_version.split(".")[0] == target.cuda_tag


def why_not_here(name: WheelName, platforms: Iterable[str]) -> str:
    """Return why a wheel can't be installed on a machine; empty if it can.

    Args:
        name: The wheel's.
        platforms: Platform tags of the machine.
    """
    machine = machine_of(name.platform)
    if machine and not machine.is_here:
        return f"is for {machine.name}, and this machine is {platform.machine()}"
    if name.platform == "any" or set(name.platform.split(".")) & set(platforms):
        return ""
    return f"is for {name.platform}"


def choose(
    wheel: Path,
    requirements: Iterable[str],
    targets: Iterable[Target],
    *,
    platforms: Iterable[str],
    python: str | None = None,
) -> Trial | str:
    """Choose what a wheel is tested with.

    A wheel of this project gets its target's torch: the newest that it allows may be built for another CUDA
    version. Others get what their metadata or their local version names.

    Args:
        wheel: The wheel.
        requirements: The wheel's `Requires-Dist`.
        targets: The targets of this project.
        platforms: Platform tags of this machine.
        python: Python version for wheels that take several; this one by default.

    Returns:
        A trial, or why this machine can't run the wheel.
    """
    name = WheelName.parse(wheel.name)
    if reason := why_not_here(name, platforms):
        return reason
    exact = re.fullmatch(r"cp3(\d+)", name.python)
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    if exact and name.abi != "abi3":
        version = f"3.{exact[1]}"
    elif exact and int(version.split(".")[1]) < int(exact[1]):
        return f"needs Python 3.{exact[1]} or later"
    target = next((one for one in targets if belongs_to(name, one)), None)
    if target is not None:
        return Trial(wheel, version, f"torch=={target.torch}", target.torch_index)
    required = torch_requirement(requirements)
    label = Label.parse(name.local_version)
    if required and required.specifier:
        requirement = f"torch{required.specifier}"
    else:
        requirement = f"torch=={label.torch}.*" if label.torch else "torch"
    return Trial(wheel, version, requirement, label.torch_index)
