"""What a made-up wheel says of how it was made."""

from __future__ import annotations

from pathlib import Path

from builder.finish.provenance import PatchFile, Provenance
from builder.toolchain.materials import Material

from builder.source.obtain import Source
from builder.target.project import Project
from builder.target.targets import load_targets
from builder.target.upstream import PATCHES_DIR, load_release

TARGET = load_targets()["cp312-cu130"]
RELEASE = load_release(PATCHES_DIR / "v2.2.0")
NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
SOURCE = Source(
    kind="release",
    version="2.2.0",
    location="https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz",
    sha256=RELEASE.sha256,
    license="Apache-2.0",
    tree=Path(),
    obtained_from="checkout",
    commit=RELEASE.commit,
    tag="v2.2.0",
)
TOLD = Provenance(
    target=TARGET,
    architectures=TARGET.architectures,
    source=SOURCE,
    patches=(
        PatchFile("0001-build.toml", b"what = 'one'\n", "one"),
        PatchFile("files/build_extensions.py", b"import os\n"),
        PatchFile("series", b"0001-build.toml\n"),
    ),
    tools=(
        Material("build-tool", "nvidia-cuda-nvcc", "13.0.88", "a" * 64, "pkg:pypi/nvidia-cuda-nvcc@13.0.88"),
        Material("build-tool", "g++", "12.2.0"),
    ),
    project=Project("sageattention-wheels", "https://example.org/wheels", "f" * 40),
    epoch=1761613216,
)
