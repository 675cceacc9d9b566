"""A wheel under audit: read once, then looked at by every check."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from packaging.metadata import ExceptionGroup, InvalidMetadata, Metadata
from packaging.requirements import Requirement

from builder.check.checks.symbols import build_paths, owner_of_copy, stem, unstable_torch_symbols
from builder.target.architectures import Architecture
from builder.target.machines import X86_64
from builder.target.targets import Target
from builder.util.errors import AuditError, RepairError
from builder.wheel import sbom
from builder.wheel.elf import SharedLibrary, is_elf, read_elf
from builder.wheel.fatbin import Code, cubin_architectures, read_fatbin
from builder.wheel.label import torch_requirement
from builder.wheel.libraries import TORCH, load_policy
from builder.wheel.wheelfile import Wheel

# The levels of what a check finds. Error: the wheel breaks, or doesn't run where its tag says. House rule:
# this project promises more (an SBOM, no debug sections, a version that names what it is for); to break one
# is an error in a wheel of this project, and a warning in others'. Warning and note: worth knowing.
ERROR, HOUSE_RULE, WARNING, NOTE = "error", "house rule", "warning", "note"
Found = Iterator[tuple[str, str]]
"""What a check yields: a level and a sentence each."""

# What each extension is compiled for, as the sources are written: the Hopper kernels need what only
# 9.0a has, the fp8 kernels need 8.9, the others run everywhere.
LEAST = {"_qattn_sm80": "8.0", "_qattn_sm89": "8.9", "_fused": "8.0"}
ONLY = {"_qattn_sm90": "9.0a"}

# A wheel without a platform promise is compared with what this project's own promise.
_DEFAULT_POLICY = "manylinux_2_34"


@dataclass(frozen=True)
class Content:
    """One file of a wheel, read once."""

    sha256: str
    size_bytes: int
    elf: bool
    library: SharedLibrary | None
    codes: tuple[Code, ...]
    build_paths: Sequence[str]


class AuditedWheel:
    """What the checks look at.

    Attributes:
        wheel: The opened wheel.
        expect: The target that it should be for; None goes by what it says about itself.
        contents: Name -> each file.
        unreadable: Why a library can't be read, a sentence each.
    """

    def __init__(self, wheel: Wheel, expect: Target | None) -> None:
        self.wheel = wheel
        self.label = wheel.label
        self.expect = expect
        self.unreadable: list[str] = []
        self.contents = {name: self._read(name) for name in wheel.names}

    def _read(self, name: str) -> Content:
        data = self.wheel.read(name)
        library: SharedLibrary | None = None
        codes: tuple[Code, ...] = ()
        # A bundled torch is an error by its name alone, and takes minutes to read.
        if is_elf(data) and owner_of_copy(name) is not TORCH:
            try:
                library = read_elf(data, name)
                codes = read_fatbin(library.fatbin)
            except AuditError as error:
                self.unreadable.append(error.message if name in error.message else f"{name}: {error.message}")
        paths = [] if _is_bundled(name) else build_paths(data)
        return Content(hashlib.sha256(data).hexdigest(), len(data), is_elf(data), library, codes, paths)

    @cached_property
    def libraries(self) -> dict[str, SharedLibrary]:
        """Name -> each shared library that could be read, sorted."""
        parts = sorted(self.contents.items())
        return {name: part.library for name, part in parts if part.library is not None}

    @cached_property
    def named_libraries(self) -> list[tuple[str, SharedLibrary]]:
        """Each shared library with its name as messages say it: without folders."""
        return [(PurePosixPath(name).name, library) for name, library in self.libraries.items()]

    @cached_property
    def extensions(self) -> dict[str, Content]:
        """Name -> each library of the package that has GPU code, or the name of one of SageAttention's."""
        parts = {name: self.contents[name] for name in self.libraries if not _is_bundled(name)}
        return {name: part for name, part in parts.items() if part.codes or stem(name) in LEAST | ONLY}

    @cached_property
    def architectures(self) -> frozenset[Architecture]:
        """The architectures that any library in it has a cubin for."""
        return frozenset(
            arch for part in self.extensions.values() for arch in cubin_architectures(part.codes)
        )

    @property
    def stable(self) -> bool:
        """Whether the wheel claims to fit every newer Python and torch."""
        return set(self.label.abi.split(".")) <= {"abi3", "none"}

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the file's name."""
        return self.label.platform.split(".")

    @cached_property
    def system_libraries(self) -> frozenset[str]:
        """The libraries that every system has, by the wheel's manylinux tag, or else by this project's."""
        for platform in self.platforms:
            with suppress(RepairError):
                if platform.startswith("manylinux"):
                    return frozenset(load_policy(platform).whitelist)
        default = f"{_DEFAULT_POLICY}_{self.label.machine or X86_64.name}"
        return frozenset(load_policy(default).whitelist)

    @cached_property
    def inside(self) -> frozenset[str]:
        """File names and SONAMEs of what is in the wheel."""
        sonames = {library.soname for library in self.libraries.values()}
        return frozenset(PurePosixPath(name).name for name in self.contents) | sonames

    @cached_property
    def torch(self) -> Requirement | None:
        """The requirement on torch; None without."""
        return torch_requirement(self.wheel.metadata.get("requires_dist"))

    def metadata_problems(self, field: str = "") -> list[str]:
        """Return what packaging refuses of METADATA, by the beginning of the field's name: `requires`."""
        try:
            Metadata.from_email(self.wheel.read(self.wheel.in_dist_info("METADATA")))
        except ExceptionGroup as group:
            problems = [error for error in group.exceptions if isinstance(error, InvalidMetadata)]
            return [f"{error.field}: {error}" for error in problems if error.field.startswith(field)]
        return []

    @cached_property
    def sbom(self) -> sbom.Sbom | None:
        """The wheel's own SBOM; None without one that can be read."""
        with suppress(AuditError):
            return sbom.read(self.wheel)
        return None

    @cached_property
    def ours(self) -> bool:
        """Whether anything in it says that this project made it."""
        folders = (self.wheel.in_dist_info("patches/"), self.wheel.in_dist_info(f"sboms/{sbom.SBOM_NAME}"))
        in_metadata = self.wheel.metadata.get("description", "").startswith("> **About this wheel.**")
        return self.linked or in_metadata or any(name.startswith(folders) for name in self.contents)

    @property
    def linked(self) -> bool:
        """Whether METADATA links the project that built it."""
        return "Wheel build" in self.wheel.metadata.get("project_urls", {})

    @cached_property
    def unstable(self) -> dict[str, list[str]]:
        """Library -> symbols of libtorch's C++ interface that it uses."""
        found = {name: unstable_torch_symbols(library) for name, library in self.named_libraries}
        return {name: symbols for name, symbols in found.items() if symbols}


def _is_bundled(name: str) -> bool:
    # Bundled libraries were made elsewhere: a path in them says nothing about this build's machine.
    return name.split("/", maxsplit=1)[0].endswith(".libs")


def listed(entries: Sequence[str], most: int = 3) -> str:
    """Return the first entries as one text, and how many more there are."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
