"""What a wheel says about its torch and its CUDA version, in its local version and its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Label:
    """A local version label, `cu130.torch2.11.sm89`, in parts; each is empty where it isn't there.

    Attributes:
        cuda: CUDA version, `13.0`.
        torch: torch series, `2.11`.
        universal: Whether it says that the wheel is for every torch.
        architectures: Numbers of the architectures, `89` or `90a`.
    """

    cuda: str
    torch: str
    universal: bool
    architectures: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read what this project, PyTorch and others write; parts that it doesn't know are ignored."""
        cuda = re.search(r"cu(?:da)?(\d{2})(\d)(?!\d)", text)
        torch = re.search(r"torch(\d+(?:\.\d+)?)", text)
        return cls(
            cuda=f"{cuda[1]}.{cuda[2]}" if cuda else "",
            torch=torch[1] if torch else "",
            universal="universal" in text.split("."),
            architectures=tuple(re.findall(r"(?:^|\.)sm_?(\d{2,3}[af]?)(?=\.|$)", text)),
        )

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
