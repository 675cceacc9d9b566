"""Says who provides a shared library in the process that SageAttention is loaded into.

A wheel may bundle a library only if a second copy in the process does no harm. That is so for the CUDA
runtime, a thin layer over the driver which many libraries link statically. It is not so for torch.
What a manylinux tag promises of the system (PEP 600), auditwheel's own policies say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from auditwheel.architecture import Architecture  # type: ignore[import-untyped]
from auditwheel.libc import Libc  # type: ignore[import-untyped]
from auditwheel.policy import Policy, WheelPolicies  # type: ignore[import-untyped]

from builder.target.targets import MACHINES, machine_of
from builder.util.errors import RepairError
from builder.wheel.elf import SharedLibrary

_LOADER = re.compile(r"ld-linux.*\.so\.\d+|ld64\.so\.\d+|linux-vdso\.so\.\d+")


@dataclass(frozen=True)
class Owner:
    """Who provides the libraries whose SONAMEs match shell patterns, and why they are bundled or not."""

    name: str
    patterns: str
    why: str
    bundled: bool = False


TORCH = Owner(
    "torch",
    "libtorch*.so* libc10*.so* libcaffe2*.so* libshm.so* libaoti_custom_ops.so*",
    "a process has one torch: a second copy registers its operators again and ends the interpreter",
)
DRIVER = Owner(
    "the GPU driver",
    "libcuda.so* libcudadebugger.so* libnvidia-*.so* libnvcuvid.so*",
    "it belongs to the kernel module that is loaded",
)
CUDA_RUNTIME = Owner(
    "the CUDA runtime",
    "libcudart.so* libcudart-*.so*",
    "copies of it work side by side on the driver's one context",
    bundled=True,
)
TORCH_CUDA = Owner(
    "torch's CUDA packages",
    "libcublas.so* libcublasLt.so* libcudnn*.so* libcufft*.so* libcufile*.so* libcupti.so* libcurand.so* "
    "libcusolver*.so* libcusparse*.so* libnccl.so* libnvJitLink.so* libnvrtc*.so* libnvshmem*.so* "
    "libnvToolsExt.so* libnvtx3interop.so* libnvvm.so*",
    "torch requires their packages, in the versions that it was tested with",
)
PYTHON = Owner(
    "the Python interpreter", "libpython3*.so*", "the interpreter itself defines its symbols (PEP 513)"
)
# How NVIDIA's own packages of the CUDA runtime name its terms.
RUNTIME_LICENSE = "LicenseRef-NVIDIA-Proprietary"
SYSTEM = Owner("the system", "", "every system that the platform tag stands for has it")

_OWNERS = (TORCH, DRIVER, CUDA_RUNTIME, TORCH_CUDA, PYTHON)


def owner_of(soname: str, allowed: frozenset[str]) -> Owner | None:
    """Return who provides a library; None if nobody is known to.

    `allowed` is what every system of the platform tag has (`Policy.whitelist` of auditwheel).
    """
    if soname in allowed or _LOADER.fullmatch(soname):
        return SYSTEM
    owners = (each for each in _OWNERS for pattern in each.patterns.split() if fnmatchcase(soname, pattern))
    return next(owners, None)


def load_policy(tag: str) -> Policy:
    """Return the promise of a tag, such as `manylinux_2_34_x86_64` or `manylinux2014_x86_64`."""
    machine = machine_of(tag)
    try:
        return _policies(machine.name if machine else "").get_policy_by_name(tag)
    except (LookupError, ValueError):
        remedy = "Use one such as manylinux_2_34_x86_64."
        raise RepairError(f"{tag} is not a platform tag that auditwheel knows.", remedy) from None


def too_new(library: SharedLibrary, policy: Policy) -> list[str]:
    """Return what a library requires and a policy lacks: `GLIBC_2.38 of libc.so.6 (__isoc23_strtol)`."""
    phrases = []
    for soname, versions in library.versions.items():
        for version in versions:
            prefix, _, number = version.partition("_")
            if number not in policy.symbol_versions.get(prefix, {number}):
                symbols = [symbol.name for symbol in library.undefined if symbol.version == version]
                shown = ", ".join(symbols[:3] + ["..."] * (len(symbols) > 3))
                phrases.append(f"{version} of {soname}" + f" ({shown})" * bool(symbols))
    return phrases


def way_out(policy: Policy) -> str:
    """Return what to do about symbols that are too new, in one sentence."""
    image = "_".join(policy.name.split("_")[:3])
    return f"Build in the {image} image (docker compose up), or on a system with that glibc or an older one."


def reached_tag(libraries: Iterable[SharedLibrary]) -> str:
    """Return the oldest manylinux tag whose symbol versions satisfy all libraries; empty if none does."""
    libraries = tuple(libraries)
    for machine in MACHINES:
        if all(library.machine == machine.elf for library in libraries):
            policies = _policies(machine.name)
            required: dict[str, set[str]] = {}
            for library in libraries:
                for soname, versions in library.versions.items():
                    required.setdefault(soname, set()).update(versions)
            policy = policies.versioned_symbols_policy(required)
            return "" if policy == policies.linux else policy.name
    return ""


@lru_cache
def _policies(machine: str) -> WheelPolicies:
    return WheelPolicies(libc=Libc.GLIBC, arch=Architecture(machine))
