"""CUDA architectures: how they are written, what runs on what, and what each CUDA version compiles.

An architecture here is what one `-gencode` names: a compute capability, with the suffix `a` where
the code uses features that only that one capability has (`9.0a`), or `f` for those of its family
(CUDA C++ Programming Guide, "Architecture-Specific Features" and "Family-Specific Features").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder.util.errors import ArchitectureError

_WRITTEN = re.compile(
    r"(?:(?P<major>\d{1,2})\.(?P<minor>\d)|(?:sm_?|compute_)(?P<digits>\d{2,3}))(?P<feature>[af]?)"
)

# Capability: (first CUDA version that compiles it, first that no longer does). Read from the release
# notes of each CUDA Toolkit and the "GPU Feature List" of its nvcc manual. 10.1 became 11.0 in 13.0.
_CUDA_VERSIONS: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int] | None]] = {
    (5, 0): ((6, 5), (13, 0)),
    (5, 2): ((7, 0), (13, 0)),
    (5, 3): ((7, 0), (13, 0)),
    (6, 0): ((8, 0), (13, 0)),
    (6, 1): ((8, 0), (13, 0)),
    (6, 2): ((8, 0), (13, 0)),
    (7, 0): ((9, 0), (13, 0)),
    (7, 2): ((9, 2), (13, 0)),
    (7, 5): ((10, 0), None),
    (8, 0): ((11, 0), None),
    (8, 6): ((11, 1), None),
    (8, 7): ((11, 4), None),
    (8, 8): ((13, 0), None),
    (8, 9): ((11, 8), None),
    (9, 0): ((11, 8), None),
    (10, 0): ((12, 8), None),
    (10, 1): ((12, 8), (13, 0)),
    (10, 3): ((12, 9), None),
    (11, 0): ((13, 0), None),
    (12, 0): ((12, 8), None),
    (12, 1): ((12, 9), None),
}
_FIRST_CUDA_WITH_FEATURE = {"a": (12, 0), "f": (12, 9)}
_FIRST_MAJOR_WITH_FEATURE = {"a": 9, "f": 10}


@dataclass(frozen=True, order=True)
class Architecture:
    """A compute capability with its feature suffix ("", "a" or "f"); architectures sort by number."""

    major: int
    minor: int
    feature: str = ""

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Return the architecture that is written `8.9`, `9.0a`, `sm_90a`, `sm90a` or `compute_90a`.

        Raises:
            ArchitectureError: The text is none of these.
        """
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
        """Return whether a cubin for this architecture runs on a GPU of that capability.

        CUDA C++ Programming Guide, "Binary Compatibility": on the same major version with the same
        or a higher minor one. Code with the suffix `a` runs on exactly its own capability.
        """
        if self.feature == "a":
            return (self.major, self.minor) == (gpu.major, gpu.minor)
        return self.major == gpu.major and self.minor <= gpu.minor


def join(architectures: Iterable[Architecture], separator: str = ", ") -> str:
    """Return the architectures in one string, in the given order."""
    return separator.join(map(str, architectures))


def major_minor(text: str) -> tuple[int, int]:
    """Return the start of a version as numbers: `(12, 8)` for `12.8.1`.

    Raises:
        ValueError: The text does not start with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} does not start with a major and a minor version")
    return int(match[1]), int(match[2])


def why_not_compilable(architecture: Architecture, cuda_version: str) -> str:
    """Return why this CUDA version can't compile this architecture; empty where it can.

    Args:
        architecture: What to compile for.
        cuda_version: Major and minor, `"12.8"`.
    """
    cuda = major_minor(cuda_version)
    known = _CUDA_VERSIONS.get((architecture.major, architecture.minor))
    if known is None:
        return f"no CUDA version is known to compile compute capability {architecture.capability}"
    first, dropped = known
    if architecture.feature:
        if architecture.major < _FIRST_MAJOR_WITH_FEATURE[architecture.feature]:
            return f"compute capability {architecture.capability} has no architecture {architecture}"
        first = max(first, _FIRST_CUDA_WITH_FEATURE[architecture.feature])
    if cuda < first:
        return f"{architecture} needs CUDA {first[0]}.{first[1]} or newer, and this is {cuda_version}"
    if dropped is not None and cuda >= dropped:
        return f"CUDA {dropped[0]}.{dropped[1]} dropped {architecture}, and this is {cuda_version}"
    return ""


def refuse_uncompilable(architectures: Iterable[Architecture], cuda_version: str) -> None:
    """Raise an error where the compiler lacks an architecture of the build.

    Args:
        architectures: What to compile for.
        cuda_version: The compiler's, `"12.4"`.

    Raises:
        ArchitectureError: It can't compile for some; the message names every one.
    """
    wanted = tuple(architectures)
    reasons = {architecture: why_not_compilable(architecture, cuda_version) for architecture in wanted}
    missing = [reason for reason in reasons.values() if reason]
    if missing:
        possible = [architecture for architecture in wanted if not reasons[architecture]]
        raise ArchitectureError(
            f"This CUDA compiler can't build for all architectures: {'; '.join(missing)}.",
            f'Build what it can with --arch "{join(possible, ";")}", or use another CUDA version.'
            if possible
            else "Use another CUDA version.",
        )
