"""The stand-in's series of patches: its own, and of the real one what the stand-in is compiled with.

The stand-in is the release that the series is for.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fakes.source import files, sums

E2E = Path(__file__).resolve().parents[1] / "e2e"
REAL_SERIES = E2E.parents[1] / "patches" / "v2.2.0"
# What the stand-in takes from the real series; the rest of `series/files` is its own.
SHARED = (
    "build_extensions.py",
    "csrc/stable/torch.h",
    "csrc/stable/torch.cpp",
    "csrc/stable/older_systems.cpp",
    "csrc/stable/launch.h",
    "csrc/stable/bindings.h",
    "sageattention/_library.py",
)


def write_series(folder: Path) -> None:
    """Write the stand-in's series into a folder that is not there, such as `v2.2.0`."""
    shutil.copytree(E2E / "series", folder)
    shutil.copy(REAL_SERIES / "upstream.toml", folder)
    stand_in = E2E / "minisage"
    lines = (f"{sha256}  {name}\n" for name, sha256 in sums(stand_in, files(stand_in)).items())
    (folder / "upstream.sha256").write_text("".join(lines))
    for name in SHARED:
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REAL_SERIES / "files" / name, folder / "files" / name)
