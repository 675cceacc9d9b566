"""How a made-up wheel was made."""

from __future__ import annotations

from pathlib import Path

from builder.finish.embed import Provenance
from builder.source.obtain import Source
from builder.target.project import Project
from builder.target.targets import PATCHES_DIR, load_release, load_targets
from builder.wheel.sbom import Component

TARGET = load_targets()["cp312-cu130"]
RELEASE = load_release(PATCHES_DIR / "v2.2.0")
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
PROVENANCE = Provenance(
    target=TARGET,
    architectures=TARGET.architectures,
    source=SOURCE,
    patches={
        "0001-build.toml": b"what = 'one'\n",
        "files/build_extensions.py": b"import os\n",
        "series": b"0001-build.toml\n",
    },
    summaries={"0001-build.toml": "one"},
    tools=(
        Component("build-tool", "nvidia-cuda-nvcc", "13.0.88", "a" * 64, "pkg:pypi/nvidia-cuda-nvcc@13.0.88"),
        Component("build-tool", "g++", "12.2.0"),
    ),
    project=Project("sageattention-wheels", "https://example.org/wheels", "f" * 40),
    epoch=1761613216,
)
