"""The pinned packages and archives that make up a CUDA compiler, as `targets/toolchains/` lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """An archive that is downloaded for a toolchain; `name` is what it holds, in short: `cuda_nvcc`."""

    name: str
    url: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Pins:
    """What a toolchain consists of.

    Attributes:
        packages: Pinned requirements that hold the CUDA compiler.
        archives: What the packages lack.
        runtime: Pinned requirements that hold the CUDA runtime of another machine, to build for it.
    """

    packages: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    runtime: tuple[str, ...] = ()
