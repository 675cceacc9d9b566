"""Which versions count as newer."""

from __future__ import annotations

from builder.publish.newer import newest_manifest, wanted


def test_a_pin_of_cudas_own_version_stays_within_that_cuda() -> None:
    assert wanted("cuda-toolkit", "13.0.2", "13.0") == "cuda-toolkit==13.0.*"
    assert wanted("nvidia-cuda-nvcc-cu12", "12.8.93", "12.8") == "nvidia-cuda-nvcc-cu12==12.8.*"
    assert wanted("ninja", "1.13.0", "13.0") == "ninja"
    assert wanted("odd", "13.01", "13.0") == "odd"


def test_manifests_sort_by_number() -> None:
    names = [
        "redistrib_12.8.9.json",
        "redistrib_12.8.10.json",
        "redistrib_12.80.1.json",
        "redistrib_12.8.11.txt",
    ]
    assert newest_manifest(names, "12.8") == "redistrib_12.8.10.json"
    assert newest_manifest(names, "13.0") == ""
