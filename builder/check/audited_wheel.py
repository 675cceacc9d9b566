"""A wheel under audit: each file is read once, then looked at by every check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.target.architectures import Architecture
from builder.target.targets import PATCHES_DIR, X86_64, Target, build_constants, load_targets
from builder.util.errors import AuditError
from builder.wheel import sbom
from builder.wheel.elf import SharedLibrary, is_elf, read_elf
from builder.wheel.fatbin import Code, cubin_architectures, read_fatbin
from builder.wheel.label import torch_requirement
from builder.wheel.libraries import TORCH, Owner, load_policy, owner_of
from builder.wheel.wheelfile import Wheel

# Each extension and the architecture from which on it is compiled, or for which alone.
_BUILD = build_constants(max(path.parent for path in PATCHES_DIR.glob("*/upstream.toml")))
LEAST: dict[str, str] = _BUILD["LEAST"]
ONLY: dict[str, str] = _BUILD["ONLY"]
EXTENSIONS = LEAST.keys() | ONLY.keys()

# A copy that auditwheel took along: libtorch_cpu-1a2b3c4d.so. Its name loses the digest before a look-up.
_COPY = re.compile(r"-[0-9a-f]{8}(?=\.so)")
# Mangled C++ names of torch's own namespaces (Itanium ABI: a name follows its length), and its C interface.
_TORCH_CXX = re.compile(r"_Z.*?(?<!\d)(?:2at|3c10|5torch|6caffe2)(?=[A-Z\d])")
_TORCH_C = re.compile(r"(?:aoti_torch_|aoti_|torch_|AOTI)\w+$")
# Folders that people and CI services build in, and any environment's site-packages. Not /usr or /lib:
# those name the same thing on every machine. nvcc puts a digest of a source's path into some names.
_BUILD_PATH = re.compile(
    rb"(?<![\w.$+@%/-])/(?:(?:home|root|tmp|work|workspace|build|builds|mnt|opt|src|srv|data|project|github|__w"
    rb"|io|Users|var)/[\w.+@-]{2,}(?:/[\w.+@-]+)*|(?:[\w.+@-]+/)+(?:site|dist)-packages(?:/[\w.+@-]+)+)"
    rb"|_INTERNAL_[0-9a-f]{8}_\w+"
)
_HARMLESS_PATHS = (
    b"/opt/rh/",  # the compiler of the manylinux images names its own files so
    b"/var/run/",  # a place at run time
    b"/tmp/torchinductor",  # torch's cache at run time
)


@dataclass(frozen=True)
class Content:
    """One file of a wheel; `build_paths` are those in it that only the machine that built it can have."""

    sha256: str
    size_bytes: int
    elf: bool
    library: SharedLibrary | None
    codes: tuple[Code, ...]
    cubins: set[Architecture]
    build_paths: Sequence[str]


class AuditedWheel:
    """What the checks look at.

    Attributes:
        sbom: The wheel's own; None without one that can be read.
        stated: What the SBOM says of the wheel itself: `target`, `architectures` and more.
        expect: The target that it should be for; None for a wheel of no target.
        unreadable: Why a library can't be read, a sentence each.
        extensions: Name -> each library with GPU code, or with the name of one of SageAttention's.
        inside: File names and SONAMEs of what is in the wheel.
        stable: Whether it claims to fit every newer Python and torch.
        torch_c: Library -> symbols of torch's stable C interface that it uses.
        torch_cxx: Library -> symbols of libtorch's C++ interface, which changes with each torch version.
        unstable: How many of those there are.
        system_libraries: Those that every system has.
        ours: Whether anything in it says that this project made it.
    """

    def __init__(self, wheel: Wheel, expect: Target | None) -> None:
        self.wheel, self.label = wheel, wheel.label
        self.sbom: sbom.Sbom | None = None
        with suppress(AuditError):
            self.sbom = sbom.read(wheel)
        self.stated = self.sbom.subject.properties if self.sbom else {}
        self.expect = expect or load_targets().get(self.stated.get("target", ""))
        self.unreadable: list[str] = []
        self.contents = {name: self._read(name) for name in sorted(wheel.names)}
        self.libraries = {name: part.library for name, part in self.contents.items() if part.library}
        self.extensions = {
            name: self.contents[name]
            for name in self.libraries
            if not _is_bundled(name) and (self.contents[name].codes or stem(name) in EXTENSIONS)
        }
        self.architectures = set[Architecture]().union(*(e.cubins for e in self.extensions.values()))
        sonames = {library.soname for library in self.libraries.values()}
        self.inside = {PurePosixPath(name).name for name in self.contents} | sonames
        self.stable = set(self.label.abi.split(".")) <= {"abi3", "none"}
        self.torch = torch_requirement(wheel.metadata.get("requires_dist"))
        used = {name: [symbol.name for symbol in each.undefined] for name, each in self.libraries.items()}
        self.torch_c = {name: list(filter(_TORCH_C.match, names)) for name, names in used.items()}
        self.torch_cxx = {name: list(filter(_TORCH_CXX.match, names)) for name, names in used.items()}
        self.unstable = sum(map(len, self.torch_cxx.values()))
        # Newer tags promise no other libraries.
        policy = load_policy(f"manylinux_2_28_{self.label.machine or X86_64.name}")
        self.system_libraries = frozenset(policy.whitelist)
        self.linked = "Wheel build" in wheel.metadata.get("project_urls", {})
        self.ours = self.linked or wheel.in_dist_info(f"sboms/{sbom.SBOM_NAME}") in self.contents

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
        # Bundled libraries were made elsewhere: a path in them says nothing about this build's machine.
        found = set() if _is_bundled(name) else set(_BUILD_PATH.findall(data))
        paths = sorted(path.decode() for path in found if not path.startswith(_HARMLESS_PATHS))
        sha256, cubins = hashlib.sha256(data).hexdigest(), set(cubin_architectures(codes))
        return Content(sha256, len(data), is_elf(data), library, codes, cubins, paths)


def stem(name: str) -> str:
    """Return a library's name without folders and endings: `_fused` of `sageattention/lib/_fused.so`."""
    return PurePosixPath(name).name.split(".")[0]


def owner_of_copy(name: str) -> Owner | None:
    """Return who brings the library that a file of the wheel is a copy of; None where nobody does."""
    file = _COPY.sub("", PurePosixPath(name).name)
    return owner_of(file, frozenset()) if ".so" in file else None


def _is_bundled(name: str) -> bool:
    return name.split("/", maxsplit=1)[0].endswith(".libs")
