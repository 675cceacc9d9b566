"""CUDA architectures: how they are written, and what runs on what.

An architecture here is what one `-gencode` names: a compute capability, with the suffix `a` where
the code uses features that only that one capability has (`9.0a`), or `f` for those of its family
(CUDA C++ Programming Guide, "Architecture-Specific Features" and "Family-Specific Features").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.util.errors import ArchitectureError

_WRITTEN = re.compile(
    r"(?:(?P<major>\d{1,2})\.(?P<minor>\d)|(?:sm_?|compute_)(?P<digits>\d{2,3}))(?P<feature>[af]?)"
)


@dataclass(frozen=True, order=True)
class Architecture:
    """A compute capability with its feature suffix ("", "a" or "f"); architectures sort by number."""

    major: int
    minor: int
    feature: str = ""

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Return the architecture that is written `8.9`, `9.0a`, `sm_90a`, `sm90a` or `compute_90a`."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise ArchitectureError(
                f"{text!r} is not a CUDA architecture.",
                "Write a compute capability such as 8.9, with a suffix where it has one: 9.0a.",
            )
        digits = match["digits"]
        major, minor = (digits[:-1], digits[-1]) if digits else (match["major"], match["minor"])
        return cls(int(major), int(minor), match["feature"])

    def __str__(self) -> str:
        return f"{self.capability}{self.feature}"

    @property
    def capability(self) -> str:
        """The compute capability without its suffix: `9.0`."""
        return f"{self.major}.{self.minor}"

    @property
    def number(self) -> str:
        """The number in `sm_90a`: `90a`."""
        return f"{self.major}{self.minor}{self.feature}"

    @property
    def gencode(self) -> str:
        """The value of nvcc's `-gencode` for a cubin of it."""
        return f"arch=compute_{self.number},code=sm_{self.number}"

    def runs_on(self, gpu: Architecture) -> bool:
        """Return whether a cubin for this architecture runs on a GPU (CUDA's "Binary Compatibility").

        That is, on the same major version with the same or a higher minor one; with the suffix `a`, on
        exactly its own capability.
        """
        if self.feature == "a":
            return (self.major, self.minor) == (gpu.major, gpu.minor)
        return self.major == gpu.major and self.minor <= gpu.minor


def join(architectures: Iterable[Architecture], separator: str = ", ") -> str:
    """Return the architectures in one string, in the given order."""
    return separator.join(map(str, architectures))


def major_minor(text: str) -> tuple[int, int]:
    """Return the start of a version as numbers: `(12, 8)` for `12.8.1`."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} does not start with a major and a minor version")
    return int(match[1]), int(match[2])


def refuse_uncompilable(
    architectures: Iterable[Architecture], cuda_version: str, lowest_cuda: Mapping[str, tuple[int, int]]
) -> None:
    """Raise an error where a CUDA version such as 12.4 is older than an architecture needs."""
    possible, reasons = [], []
    for architecture in architectures:
        major, minor = lowest_cuda[str(architecture)]
        if (major, minor) <= major_minor(cuda_version):
            possible.append(architecture)
        else:
            reasons.append(f"{architecture} needs CUDA {major}.{minor}")
    if reasons:
        raise ArchitectureError(
            f"CUDA {cuda_version} can't build for all architectures: {', '.join(reasons)}.",
            f'Use a newer one, or --arch "{join(possible, ";")}".' if possible else "Use a newer one.",
        )
