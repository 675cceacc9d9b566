"""Reads from a wheel's file name what the wheel is for: Python, platform, CUDA, torch and GPUs.

Sources: PEP 427 for the file name, PEP 425 for tags, PEP 440 for the local version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from builder.target.targets import machine_of
from builder.util.errors import AuditError


class WheelError(AuditError):
    """A file that is not a wheel, or one whose parts contradict each other."""


@dataclass(frozen=True)
class WheelLabel:
    """A wheel's file name in parts, and what its local version says.

    The local version is read as this project, PyTorch and others write it: `cu130.torch2.11.2.sm89`,
    `cu128torch2.8.0`, `cu130`. Parts that are not known are ignored.

    All parts are as they are written; those of the tag can each be several, joined by dots.
    """

    distribution: str
    version: str
    python: str
    abi: str
    platform: str

    @classmethod
    def parse(cls, file_name: str) -> WheelLabel:
        """Return the parts of a file name; WheelError if it is not the name of a wheel."""
        try:
            parse_wheel_filename(file_name)
        except InvalidWheelFilename as error:
            raise WheelError(f"{file_name}: not the name of a wheel: {error}.") from error
        distribution, version, *_build, python, abi, platform = file_name.removesuffix(".whl").split("-")
        return cls(distribution, version, python, abi, platform)

    @property
    def tag(self) -> str:
        """The whole tag: `cp312-cp312-linux_x86_64`."""
        return f"{self.python}-{self.abi}-{self.platform}"

    @property
    def tags(self) -> frozenset[Tag]:
        """Every single tag that the whole tag stands for."""
        return parse_tag(self.tag)

    @property
    def machine(self) -> str:
        """`x86_64` or `aarch64`; empty for any other."""
        machine = machine_of(self.platform)
        return machine.name if machine else ""

    @property
    def local_version(self) -> str:
        """What follows the `+` of the version; empty without one."""
        return self.version.partition("+")[2].replace("_", ".")

    @property
    def cuda(self) -> str:
        """CUDA version, `13.0`; empty where the local version names none."""
        match = re.search(r"cu(?:da)?(\d{2})(\d)(?!\d)", self.local_version)
        return f"{match[1]}.{match[2]}" if match else ""

    @property
    def torch(self) -> str:
        """Series of torch, `2.11`; empty where the local version names none."""
        match = re.search(r"torch(\d+(?:\.\d+)?)", self.local_version)
        return match[1] if match else ""

    @property
    def universal(self) -> bool:
        """Whether the wheel is for every torch from some version on."""
        return "universal" in self.local_version.split(".")

    @property
    def architectures(self) -> tuple[str, ...]:
        """Numbers of the GPU architectures, `89`, `90a`, if the wheel lacks some of its target's."""
        return tuple(re.findall(r"(?:^|\.)sm_?(\d{2,3}[af]?)(?=\.|$)", self.local_version))

    @property
    def revision(self) -> int:
        """Revision of the patches, a number after the part for torch: `cu130.universal.2`; 0 without one."""
        match = re.search(r"(?:^|\.)(?:universal|torch\d+\.\d+)\.(\d+)(?:\.|$)", self.local_version)
        return int(match[1]) if match else 0

    @property
    def torch_index(self) -> str | None:
        """PyTorch's package index of builds for the CUDA version; None without one."""
        return f"https://download.pytorch.org/whl/cu{self.cuda.replace('.', '')}" if self.cuda else None


def torch_requirement(requirements: Iterable[object] | None) -> Requirement | None:
    """Return the requirement on torch among a wheel's `Requires-Dist`; None without one.

    Lines that are not requirements are ignored: the wheel may be anybody's.
    """
    for line in requirements or ():
        try:
            requirement = Requirement(str(line))
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) == "torch":
            return requirement
    return None
