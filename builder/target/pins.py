"""The pinned packages and archives that make up a CUDA compiler, as `targets/toolchains/` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from builder.util.toml import Table


@dataclass(frozen=True)
class Archive:
    """An archive that is downloaded for a toolchain.

    Attributes:
        name: What it holds, in short: `cuda_nvcc`.
        url: Its https address.
        sha256: Its digest, lower-case hexadecimal.
        size_bytes: Its size.
    """

    name: str
    url: str
    sha256: str
    size_bytes: int


class Pins(NamedTuple):
    """What a toolchain consists of.

    Attributes:
        packages: Pinned requirements that hold the CUDA compiler.
        archives: What the packages lack.
        runtime: Pinned requirements that hold the CUDA runtime of another machine, to build for it.
    """

    packages: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    runtime: tuple[str, ...] = ()


def read_pins(table: Table) -> Pins:
    """Return what a toolchain consists of.

    Args:
        table: The file of a CUDA version, or a target's own `[toolchain]`.

    Raises:
        TargetError: A key is wrong, or a package is not pinned.
    """
    table.keys(("packages",), ("archives", "runtime"))
    packages = _read_packages(table, "packages", '["cuda-toolkit[nvcc]==13.0.2"]')
    runtime = _read_packages(table, "runtime", '["cuda-toolkit[cudart]==13.0.2"]')
    archives = tuple(_read_archive(item) for item in table.tables("archives"))
    names = [archive.name for archive in archives]
    for name in names:
        table.check("archives", names.count(name) == 1, f"{name!r} is listed twice")
    return Pins(packages, archives, runtime)


def _read_packages(table: Table, key: str, example: str) -> tuple[str, ...]:
    if key not in table.values:
        return ()
    packages = table.texts(key, example)
    for package in packages:
        try:
            pins = list(Requirement(package).specifier)
        except InvalidRequirement as error:
            raise table.fail(key, f"{package!r} is not a requirement: {error}") from None
        table.check(
            key,
            len(pins) == 1 and pins[0].operator == "==" and not pins[0].version.endswith("*"),
            f"{package!r} is not pinned",
            "Write name==version, so that a build can be repeated.",
        )
    return tuple(packages)


def _read_archive(table: Table) -> Archive:
    table.keys(("name", "url", "sha256", "size_bytes"))
    return Archive(
        name=table.text("name", r"[A-Za-z0-9][\w.-]{0,99}", "a name such as cuda_nvcc"),
        url=table.address("url"),
        sha256=table.text("sha256", r"[0-9a-f]{64}", "a SHA-256 of 64 lower-case hexadecimal digits"),
        size_bytes=table.number("size_bytes", 1, "a size in bytes"),
    )
