"""What a file's name, bytes and symbols give away."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

from builder.util.toml import tomllib
from builder.wheel.elf import SharedLibrary
from builder.wheel.libraries import Owner, owner_of

# A copy that auditwheel took along: libtorch_cpu-1a2b3c4d.so. Its name loses the digest before a look-up.
_COPY = re.compile(r"-[0-9a-f]{8}(?=\.so)")
# Mangled C++ names of torch's own namespaces (Itanium ABI: a name follows its length).
_TORCH_CXX = re.compile(r"_Z.*?(?<!\d)(?:2at|3c10|5torch|6caffe2)(?=[A-Z\d])")
_TORCH_C = re.compile(r"(?:aoti_torch_|aoti_|torch_|AOTI)\w+")
_PYTHON = re.compile(r"_?Py[A-Z_]\w*")
# Folders that people and CI services build in, and any environment's site-packages. Not /usr or /lib:
# those name the same thing on every machine.
_BUILD_PATH = re.compile(
    rb"(?<![\w.$+@%/-])/(?:(?:home|root|tmp|work|workspace|build|builds|mnt|opt|src|srv|data|project|github|__w"
    rb"|io|Users|var)/[\w.+@-]{2,}(?:/[\w.+@-]+)*|(?:[\w.+@-]+/)+(?:site|dist)-packages(?:/[\w.+@-]+)+)"
)
_HARMLESS_PATHS = (
    b"/opt/rh/",  # the compiler of the manylinux images names its own files so
    b"/var/run/",  # a place at run time
    b"/tmp/torchinductor",  # torch's cache at run time
)


def stem(name: str) -> str:
    """Return a library's name without folders and endings: `_fused` of `sageattention/lib/_fused.so`."""
    return PurePosixPath(name).name.split(".")[0]


def owner_of_copy(name: str) -> Owner | None:
    """Return who brings the library that a file of the wheel is a copy of; None where nobody does."""
    file = _COPY.sub("", PurePosixPath(name).name)
    return owner_of(file, frozenset()) if ".so" in file else None


def unstable_torch_symbols(library: SharedLibrary) -> list[str]:
    """Return the undefined symbols of libtorch's C++ interface, which changes with each torch version."""
    return [symbol.name for symbol in library.undefined if _TORCH_CXX.match(symbol.name)]


def stable_torch_symbols(library: SharedLibrary) -> list[str]:
    """Return the undefined symbols of torch's stable C interface."""
    return [symbol.name for symbol in library.undefined if _TORCH_C.fullmatch(symbol.name)]


def python_symbols(library: SharedLibrary) -> list[str]:
    """Return the undefined symbols of CPython."""
    return [symbol.name for symbol in library.undefined if _PYTHON.fullmatch(symbol.name)]


@lru_cache
def torch_functions() -> dict[str, str]:
    """Return the first torch series, `2.7`, that has each function of torch's stable C interface."""
    table = tomllib.loads(Path(__file__).with_name("torch_functions.toml").read_text(encoding="utf-8"))
    return {name: series for series, names in table.items() for name in names}


def build_paths(data: bytes) -> list[str]:
    """Return the absolute paths in a file that only the machine that built it can have, sorted, each once."""
    found = {match[0] for match in _BUILD_PATH.finditer(data)}
    return sorted(path.decode() for path in found if not path.startswith(_HARMLESS_PATHS))
