"""Says who provides a shared library in the process that SageAttention is loaded into.

A wheel may bundle a library only if a second copy in the process does no harm. That is so for the CUDA
runtime, a thin layer over the driver which many libraries link statically. It is not so for torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_LOADER = re.compile(r"ld-linux.*\.so\.\d+|ld64\.so\.\d+|linux-vdso\.so\.\d+")


@dataclass(frozen=True)
class Owner:
    """Who provides a group of libraries.

    Attributes:
        name: For messages.
        patterns: Shell patterns of SONAMEs.
        why: Why they can or can't be bundled.
        bundled: Whether a PEP 600 wheel bundles them.
    """

    name: str
    patterns: tuple[str, ...]
    why: str
    bundled: bool = False


TORCH = Owner(
    "torch",
    ("libtorch*.so*", "libc10*.so*", "libcaffe2*.so*", "libshm.so*", "libaoti_custom_ops.so*"),
    "a process has one torch: a second copy registers its operators again and ends the interpreter",
)
DRIVER = Owner(
    "the GPU driver",
    ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*", "libnvcuvid.so*"),
    "it belongs to the kernel module that is loaded",
)
CUDA_RUNTIME = Owner(
    "the CUDA runtime",
    ("libcudart.so*", "libcudart-*.so*"),
    "copies of it work side by side on the driver's one context",
    bundled=True,
)
TORCH_CUDA = Owner(
    "torch's CUDA packages",
    (
        *("libcublas.so*", "libcublasLt.so*", "libcudnn*.so*", "libcufft*.so*", "libcufile*.so*"),
        *("libcupti.so*", "libcurand.so*", "libcusolver*.so*", "libcusparse*.so*", "libnccl.so*"),
        *("libnvJitLink.so*", "libnvrtc*.so*", "libnvshmem*.so*", "libnvToolsExt.so*"),
        *("libnvtx3interop.so*", "libnvvm.so*"),
    ),
    "torch requires their packages, in the versions that it was tested with",
)
PYTHON = Owner(
    "the Python interpreter",
    ("libpython3*.so*",),
    "the interpreter itself defines its symbols (PEP 513)",
)
# How NVIDIA's own packages of the CUDA runtime name its terms.
RUNTIME_LICENSE = "LicenseRef-NVIDIA-Proprietary"
SYSTEM = Owner("the system", (), "every system that the platform tag stands for has it")

_OWNERS = (TORCH, DRIVER, CUDA_RUNTIME, TORCH_CUDA, PYTHON)


def owner_of(soname: str, allowed: frozenset[str]) -> Owner | None:
    """Return who provides a library; None if nobody is known to.

    Args:
        soname: As DT_NEEDED has it.
        allowed: What every system of the platform tag has (`Policy.whitelist` of auditwheel).
    """
    if soname in allowed or _LOADER.fullmatch(soname):
        return SYSTEM
    for owner in _OWNERS:
        if any(fnmatchcase(soname, pattern) for pattern in owner.patterns):
            return owner
    return None
