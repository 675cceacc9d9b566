"""What is known of installed packages, whoever installed them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from made_up_tools import install_package

from builder.toolchain.materials import Material, content_sha256, installed_packages, parse_record


def test_a_record_reads_the_same_whoever_installed() -> None:
    nvcc = "nvidia/cu13/bin/nvcc,sha256=Fk39liSW5g2E2PvHzaNsWJcQFrbTye07XNxjqunO_zg,11032"
    meta = "x-1.dist-info/METADATA,sha256=AH7kkgoOlOzuCr4b4CLzmtNWjGs-gdisQbO8yHHnX0o,1788"
    digest = "sha256=5hhM4Q4mYTT9z6QB6PGpUAW81PGNFrYrdXMj4oM_6ak,2"
    by_uv = [meta, nvcc, f"x-1.dist-info/INSTALLER,{digest}", "x-1.dist-info/RECORD,,"]
    by_pip = [
        nvcc,
        f"../../../bin/x,{digest}",
        "nvidia/__pycache__/x.pyc,,",
        f"x-1.dist-info/direct_url.json,{digest}",
        meta,
        f"x-1.dist-info/REQUESTED,{digest}",
    ]
    assert parse_record("\n".join(by_uv)) == parse_record("\n".join(by_pip))
    assert parse_record("\n".join(by_uv)) == {
        "nvidia/cu13/bin/nvcc": "164dfd962496e60d84d8fbc7cda36c58971016b6d3c9ed3b5cdc63aae9ceff38",
        "x-1.dist-info/METADATA": "007ee4920a0e94ecee0abe1be022f39ad3568c6b3e81d8ac41b3bcc871e75f4a",
    }


def test_installed_packages_are_materials_with_a_digest_of_their_files(tmp_path: Path) -> None:
    install_package(tmp_path, "nvidia_cuda.nvcc", "13.0.88", {"nvidia/bin/nvcc": "nvcc"})
    install_package(tmp_path, "abc", "1")
    (tmp_path / "abc-1.dist-info" / "RECORD").unlink()
    (tmp_path / "half-removed-1.dist-info").mkdir()
    bare, package = installed_packages(tmp_path)
    assert bare.material() == Material("build-tool", "abc", "1", "", "pkg:pypi/abc@1")
    assert package.files["nvidia/bin/nvcc"] == hashlib.sha256(b"nvcc").hexdigest()
    assert package.material() == Material(
        "build-tool",
        "nvidia-cuda-nvcc",
        "13.0.88",
        content_sha256(package.files),
        "pkg:pypi/nvidia-cuda-nvcc@13.0.88",
    )


def test_the_digest_of_files_is_that_of_their_list() -> None:
    listed = f"{'1' * 64}  a\n{'2' * 64}  b/c\n"
    assert content_sha256({"b/c": "2" * 64, "a": "1" * 64}) == hashlib.sha256(listed.encode()).hexdigest()
