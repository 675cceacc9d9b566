"""A wheel under audit: read once, then looked at by every check."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from packaging.requirements import Requirement

from builder.check.checks.evidence import build_paths, owner_of_copy, stem, unstable_torch_symbols
from builder.check.label import Label, torch_requirement
from builder.finish.provenance import OPENING, count_of_patches
from builder.finish.sbom import SBOM_NAME, Bill, own_sbom
from builder.target.architectures import Architecture
from builder.target.machines import X86_64, Machine, machine_of
from builder.target.targets import Target
from builder.toolchain.materials import Material
from builder.util.errors import AuditError, RepairError
from builder.wheel.elf import SharedLibrary, is_elf, read_elf
from builder.wheel.fatbin import Code, cubin_architectures, read_fatbin
from builder.wheel.libraries import TORCH
from builder.wheel.manylinux import Policy, load_policy
from builder.wheel.wheelfile import Wheel, WheelError

# The levels of what a check finds. Error: the wheel breaks, lies, or doesn't run where its tag says. House
# rule: this project promises more (an SBOM, no debug sections, a version that names what it is for); to break
# one is an error in a wheel of this project, and a warning in others'. Warning and note: worth knowing.
ERROR, HOUSE_RULE, WARNING, NOTE = "error", "house rule", "warning", "note"
Found = Iterator[tuple[str, str]]
"""What a check yields: a level and a sentence each."""

# What each extension is compiled for, as the sources are written: the Hopper kernels need what only
# 9.0a has, the fp8 kernels need 8.9, the others run everywhere.
LEAST = {"_qattn_sm80": "8.0", "_qattn_sm89": "8.9", "_fused": "8.0"}
ONLY = {"_qattn_sm90": "9.0a"}

# A wheel without a platform promise is compared with what this project's own promise.
_DEFAULT_POLICY = "manylinux_2_34"
_NOTHING = Bill(Material("", ""), (), ())


@dataclass(frozen=True)
class Content:
    """One file of a wheel, read once."""

    sha256: str
    size_bytes: int
    elf: bool
    library: SharedLibrary | None
    codes: tuple[Code, ...]
    build_paths: tuple[str, ...]


class AuditedWheel:
    """What the checks look at.

    Attributes:
        wheel: The opened wheel.
        expect: The target that it should be for; None goes by what it says about itself.
        size_limit_bytes: How large the house rules allow the file to be.
        contents: Name -> each file.
        unreadable: Why a library can't be read, a sentence each.
    """

    def __init__(self, wheel: Wheel, expect: Target | None, size_limit_bytes: int) -> None:
        self.wheel = wheel
        self.expect = expect
        self.size_limit_bytes = size_limit_bytes
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
        paths = () if _is_bundled(name) else build_paths(data)
        return Content(hashlib.sha256(data).hexdigest(), len(data), is_elf(data), library, codes, paths)

    @cached_property
    def libraries(self) -> dict[str, SharedLibrary]:
        """Name -> each shared library that could be read."""
        return {name: part.library for name, part in self.contents.items() if part.library is not None}

    @cached_property
    def named_libraries(self) -> list[tuple[str, SharedLibrary]]:
        """Each shared library with its name as messages say it: without folders."""
        return [(PurePosixPath(name).name, library) for name, library in sorted(self.libraries.items())]

    @cached_property
    def extensions(self) -> dict[str, Content]:
        """Name -> each library of the package that has GPU code, or the name of one of SageAttention's."""
        return {
            name: part
            for name, part in self.contents.items()
            if part.library is not None
            and not _is_bundled(name)
            and (part.codes or stem(name) in LEAST | ONLY)
        }

    @cached_property
    def architectures(self) -> frozenset[Architecture]:
        """The architectures that any library in it has a cubin for."""
        return frozenset(
            cubin for part in self.extensions.values() for cubin in cubin_architectures(part.codes)
        )

    @property
    def stable(self) -> bool:
        """Whether the wheel claims to fit every newer Python and torch."""
        return "abi3" in self.wheel.name.abi.split(".")

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the file's name."""
        return self.wheel.name.platform.split(".")

    @property
    def machine(self) -> Machine:
        """The machine of the file's name."""
        return next(filter(None, map(machine_of, self.platforms)), X86_64)

    @cached_property
    def policy(self) -> Policy | None:
        """The strictest of the wheel's manylinux tags; None without one that is known."""
        return min(self.policies, key=lambda policy: policy.glibc, default=None)

    @cached_property
    def policies(self) -> list[Policy]:
        """What its manylinux tags promise; the check `tag` reports those that are not known."""
        found = []
        for platform in self.platforms:
            with suppress(RepairError):
                found += [load_policy(platform)] if platform.startswith("manylinux") else []
        return found

    @cached_property
    def system_libraries(self) -> frozenset[str]:
        """The libraries that every system has, by the wheel's manylinux tag, or else by this project's."""
        return (self.policy or load_policy(f"{_DEFAULT_POLICY}_{self.machine.name}")).libraries

    @cached_property
    def inside(self) -> frozenset[str]:
        """File names and SONAMEs of what is in the wheel."""
        sonames = {library.soname for library in self.libraries.values()}
        return frozenset(PurePosixPath(name).name for name in self.contents) | sonames

    @cached_property
    def torch(self) -> Requirement | None:
        """The requirement on torch; None without."""
        return torch_requirement(self.wheel.metadata.get_all("Requires-Dist"))

    @cached_property
    def bill(self) -> Bill:
        """What the wheel's own SBOM says; empty without one that can be read."""
        try:
            return own_sbom(self.wheel) or _NOTHING
        except (ValueError, WheelError):
            return _NOTHING

    @property
    def provenance(self) -> Material:
        """What the wheel's own SBOM says of the whole wheel."""
        return self.bill.subject

    @cached_property
    def description(self) -> str:
        """The two lines of METADATA that say what a wheel of this project is; empty in other wheels."""
        metadata = self.wheel.read(self.wheel.in_dist_info("METADATA")).decode("utf-8", "replace")
        lines = metadata.replace("\r\n", "\n").partition(f"\n\n{OPENING}")
        return OPENING + lines[2].partition("\n\n")[0] if lines[1] else ""

    @cached_property
    def ours(self) -> bool:
        """Whether anything in it says that this project made it."""
        folders = (self.wheel.in_dist_info("patches/"), self.wheel.in_dist_info(f"sboms/{SBOM_NAME}"))
        links = map(str, self.wheel.metadata.get_all("Project-URL", []))
        return (
            self.description != ""
            or any(name.startswith(folders) for name in self.contents)
            or any(link.startswith("Wheel build,") for link in links)
        )

    @cached_property
    def unpatched(self) -> bool:
        """Whether its SBOM and its description say that it was not patched."""
        kinds = {part.kind for part in self.bill.materials}
        said = f" {count_of_patches(0)})" in self.description
        return said and "source" in kinds and "patch" not in kinds

    @cached_property
    def label(self) -> Label:
        """What the local version says."""
        return Label.parse(self.wheel.name.local_version)

    @cached_property
    def unstable(self) -> dict[str, tuple[str, ...]]:
        """Library -> symbols of libtorch's C++ interface that it uses."""
        found = {name: unstable_torch_symbols(library) for name, library in self.named_libraries}
        return {name: symbols for name, symbols in found.items() if symbols}


def _is_bundled(name: str) -> bool:
    # Bundled libraries were made elsewhere: a path in them says nothing about this build's machine.
    return name.split("/", maxsplit=1)[0].endswith(".libs")


def listed(entries: tuple[str, ...], most: int = 3) -> str:
    """Return the first entries as one text, and how many more there are."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
