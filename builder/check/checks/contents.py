"""Checks of the file and of what lies in it: RECORD, paths of the build machine, size."""

from __future__ import annotations

import re
import stat
import zipfile

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, AuditedWheel, Found, listed
from builder.util.limits import ASSET_BYTES
from builder.wheel.wheelfile import record_problems


def record(audited: AuditedWheel) -> Found:
    """RECORD has the right digest for each file, and each library can be read."""
    for problem in (*record_problems(audited.wheel), *audited.unreadable):
        yield ERROR, problem


def files(audited: AuditedWheel) -> Found:
    """No file is what an installer or Python acts on unasked, or something else than its name says."""
    for name, info in audited.wheel.members.items():
        mode = stat.S_IMODE(info.external_attr >> 16)
        if mode & ~0o775:
            yield ERROR, f"{name} has the mode {mode:o}"
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            yield ERROR, f"{name} is packed in a way that not every installer can unpack"
        if name.endswith("/__init__.py") and f"{name.removesuffix('/__init__.py')}.py" in audited.contents:
            yield HOUSE_RULE, f"{name} hides the module of the same name"
        if name.endswith((".pyc", ".pyo")):
            yield HOUSE_RULE, f"{name} is byte code, which Python runs in place of the source"
        if re.search(r"\.so(\.\d+)*$", name) and not audited.contents[name].elf:
            yield ERROR, f"{name} is not a shared library"
    if (entry_points := audited.wheel.in_dist_info("entry_points.txt")) in audited.contents:
        yield HOUSE_RULE, f"{entry_points} makes commands or plugins"


def paths(audited: AuditedWheel) -> Found:
    """No file contains a path of the machine that built it."""
    for name, part in audited.contents.items():
        # Upstream's README and the patches are text that people wrote.
        written = name.startswith(audited.wheel.in_dist_info("patches/")) or name.endswith(
            ("/METADATA", ".md", ".txt", "/LICENSE")
        )
        if part.build_paths and not written:
            count = len(part.build_paths)
            where = f"{count} path{'s' * (count > 1)} of the machine that built it"
            yield HOUSE_RULE, f"{name} contains {where}: {listed(part.build_paths, 2)}"


def size(audited: AuditedWheel) -> Found:
    """A release can hold the wheel, and the wheel is not unusually large."""
    size_bytes, limit_bytes = audited.wheel.path.stat().st_size, audited.size_limit_bytes
    if size_bytes > ASSET_BYTES:
        yield ERROR, f"{size_bytes / 1e9:.2f} GB is more than a release can hold (2 GiB)"
    elif size_bytes > limit_bytes:
        yield HOUSE_RULE, f"{size_bytes / 1e6:.1f} MB is more than {limit_bytes / 1e6:.0f} MB"
