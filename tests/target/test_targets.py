"""Target files: what they say, and how a wrong one is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.tags import parse_tag
from packaging.version import Version

from builder.target.architectures import Architecture
from builder.target.machines import AARCH64, X86_64
from builder.target.selection import select
from builder.target.targets import TARGETS_DIR, Target, find_target, load_target, load_targets, local_version
from builder.util.errors import TargetError, UsageError

NATIVE = """\
abi = "native"
python = "3.13"
cuda = "13.0"
torch = "2.12.0"
torch_index = "https://download.pytorch.org/whl/cu130"
architectures = ["8.9", "9.0a"]
platform_tag = "manylinux_2_34_x86_64"
upstream = "v2.2.0"
"""
STABLE = (
    NATIVE.replace('"native"', '"stable"')
    .replace("3.13", "3.12")
    .replace('upstream = "v2.2.0"', 'upstream = "v2.2.0"\ntorch_minimum = "2.10"')
)
ARCHIVE = """\
[toolchain]
packages = ["nvidia-cuda-nvcc==13.0.88"]
[[toolchain.archives]]
name = "cuda_nvcc"
url = "https://example.org/cuda_nvcc.tar.xz"
sha256 = "9961b3484b6b71314063709a4f9529654f96782ad39e72bf1e00f070db8210d3"
size_bytes = 79015464
"""


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    """A folder with the shipped toolchains and no target."""
    folder = tmp_path / "targets"
    shutil.copytree(TARGETS_DIR / "toolchains", folder / "toolchains")
    return folder


def write(targets: Path, text: str, name: str = "cp313-cu130") -> Path:
    path = targets / f"{name}.toml"
    path.write_text(text)
    return path


def test_hidden_files_and_editors_copies_are_no_targets(targets: Path) -> None:
    write(targets, NATIVE)
    for name in (".x.toml", ".cp313-cu130.toml.swp", "cp313-cu130.toml~", "#cp313-cu130.toml#", ".#a.toml"):
        (targets / name).write_text("half written")
    assert list(load_targets(targets)) == ["cp313-cu130"]


def test_the_shipped_targets_are_these() -> None:
    found = load_targets()
    assert list(found) == ["abi3-cu128", "abi3-cu130", "abi3-cu130-aarch64", "cp311-cu128", "cp312-cu130"]
    every = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))
    for name, target in found.items():
        assert target.name == name
        assert target.machine.name == ("aarch64" if name.endswith("-aarch64") else "x86_64")
        # A GPU of 8.6 runs the code of 8.0.
        assert target.architectures == tuple(
            one for one in every if target.machine is X86_64 or one.minor != 6
        )
        assert target.torch_index == f"https://download.pytorch.org/whl/{target.cuda_tag}"


def test_the_shipped_targets_become_the_right_wheels() -> None:
    found = load_targets()
    assert [
        (
            target.python,
            target.torch,
            target.torch_requirement,
            target.wheel_tag(f"linux_{target.machine.name}"),
        )
        for target in found.values()
    ] == [
        ("3.11", "2.10.0", "torch>=2.7", "cp310-abi3-linux_x86_64"),
        ("3.12", "2.11.0", "torch>=2.9", "cp310-abi3-linux_x86_64"),
        ("3.12", "2.11.0", "torch>=2.9", "cp310-abi3-linux_aarch64"),
        ("3.11", "2.10.0", "torch==2.10.*", "cp311-cp311-linux_x86_64"),
        ("3.12", "2.11.0", "torch==2.11.*", "cp312-cp312-linux_x86_64"),
    ]
    assert found["cp312-cu130"].python_tag == "cp312"
    assert found["abi3-cu130"].python_tag == "cp310-abi3"
    for target in found.values():
        assert len(parse_tag(target.wheel_tag(target.platform_tag))) == 1


def test_cuda_12_8_needs_nvidias_archives_and_13_0_does_not() -> None:
    found = load_targets()
    assert found["abi3-cu128"].toolchain_archives == found["cp311-cu128"].toolchain_archives
    sizes = {archive.name: archive.size_bytes for archive in found["cp311-cu128"].toolchain_archives}
    assert sizes == {"cuda_nvcc": 79015464, "cuda_cudart": 1354240, "cuda_cccl": 928524}
    assert found["cp312-cu130"].toolchain_archives == ()
    assert found["cp312-cu130"].toolchain_packages == ("cuda-toolkit[nvcc,nvvm,crt,cccl]==13.0.2",)


def test_one_small_file_is_a_new_target(targets: Path) -> None:
    write(targets, NATIVE)
    target = load_targets(targets)["cp313-cu130"]
    assert target.describe() == "Python 3.13, CUDA 13.0, torch 2.12"
    assert target.torch_requirement == "torch==2.12.*"
    assert target.toolchain_packages == load_targets()["cp312-cu130"].toolchain_packages


def test_a_stable_target_describes_what_it_is_for(targets: Path) -> None:
    target = load_target(write(targets, STABLE, "abi3-cu130"))
    assert target.describe() == "Python 3.10 and newer, CUDA 13.0, torch 2.10 and newer"


def test_the_machine_is_that_of_the_platform_tag(targets: Path) -> None:
    other = STABLE.replace("x86_64", "aarch64")
    target = load_target(write(targets, other, "abi3-cu130-aarch64"))
    assert target.machine is AARCH64
    assert target.describe() == "Python 3.10 and newer, CUDA 13.0, torch 2.10 and newer, aarch64"
    assert target.wheel_tag(target.platform_tag) == "cp310-abi3-manylinux_2_34_aarch64"
    assert load_target(write(targets, STABLE, "abi3-cu130")).machine is X86_64


def test_a_target_may_bring_its_own_toolchain(targets: Path) -> None:
    text = NATIVE.replace("13.0", "13.2").replace("cu130", "cu132")
    own = load_target(write(targets, text + ARCHIVE, "cp313-cu132"))
    assert own.toolchain_packages == ("nvidia-cuda-nvcc==13.0.88",)
    assert own.toolchain_archives[0].url == "https://example.org/cuda_nvcc.tar.xz"


def _local_version(target: Target, arch: str | None) -> str:
    return local_version(target, select(arch, target.architectures, ()))


def test_local_versions_say_what_the_wheel_is_for() -> None:
    native, stable = load_targets()["cp312-cu130"], load_targets()["abi3-cu130"]
    assert _local_version(native, None) == "cu130.torch2.11"
    assert _local_version(stable, "all") == "cu130.universal"
    assert _local_version(native, "9.0;8.9") == "cu130.torch2.11.sm89.sm90a"
    assert _local_version(stable, "12.0") == "cu130.universal.sm120"


def test_pip_prefers_the_universal_wheel() -> None:
    native, stable = load_targets()["cp312-cu130"], load_targets()["abi3-cu130"]
    assert Version(f"2.2.0+{_local_version(stable, None)}") > Version(f"2.2.0+{_local_version(native, None)}")


def test_every_local_version_is_as_pep_440_writes_it() -> None:
    for target in load_targets().values():
        for arch in ("all", "8.9", "9.0a;12.0"):
            label = _local_version(target, arch)
            assert Version(f"2.2.0+{label}").local == label


def change(key: str, value: str) -> str:
    changed, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", NATIVE)
    assert times == 1
    return changed


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (NATIVE + 'pyton = "3.12"\n', "pyton", "unknown key"),
        (NATIVE.replace('python = "3.13"\n', ""), "python", "missing"),
        (change("python", '"3.x"'), "python", "is not a Python version such as 3.12"),
        (change("python", "3.13"), "python", "3.13 is not a Python version"),
        (change("python", '"3.9"'), "python", "3.9 is older than 3.10"),
        (change("python", '"3.13t"'), "python", "is not a Python version"),
        (change("cuda", '"13"'), "cuda", "is not a CUDA version such as 13.0"),
        (change("cuda", '"13.0.2"'), "cuda", "is not a CUDA version"),
        (change("torch", '"2.11"'), "torch", "is not a torch release such as 2.11.0"),
        (change("torch", '"2.9.1"'), "torch", "older than 2.10, the first with the stable headers"),
        (change("torch_index", '"http://download.pytorch.org/whl/cu130"'), "torch_index", "is not an https"),
        (change("torch_index", '"https://me:secret@example.org/"'), "torch_index", "is not an https"),
        (change("torch_index", '"https://"'), "torch_index", "is not an https"),
        (change("torch_index", '"https://[::1/"'), "torch_index", "is not an https"),
        (change("torch_index", '"https://download.pytorch.org/whl/cu128"'), "torch_index", "index of cu128"),
        (change("abi", '"limited"'), "abi", "'limited' is not one of native, stable"),
        (change("abi", '["native"]'), "abi", "is not one of native, stable"),
        (change("abi", '"stable"'), "torch_minimum", "missing, and abi stable needs it"),
        (NATIVE + 'torch_minimum = "2.10"\n', "torch_minimum", "only for abi stable"),
        (STABLE.replace('"2.10"', '"2.6"'), "torch_minimum", "older than 2.7, the first with the C f"),
        (STABLE.replace('"2.10"', '"2.13"'), "torch_minimum", "newer than the torch that it is built with"),
        (STABLE.replace('"2.10"', '"2.10.0"'), "torch_minimum", "is not a torch version such as 2.7"),
        (change("architectures", '"8.9"'), "architectures", "is not a list of strings"),
        (change("architectures", "[]"), "architectures", "is not a list of strings"),
        (change("architectures", "[8.9]"), "architectures", "is not a list of strings"),
        (change("architectures", '["8.9", "8.9"]'), "architectures", "'8.9' is listed twice"),
        (change("architectures", '["8.9", "sm_89"]'), "architectures", "8.9 is listed twice"),
        (change("architectures", '["ada"]'), "architectures", "'ada' is not a CUDA architecture"),
        (change("architectures", '["7.0"]'), "architectures", "CUDA 13.0 dropped 7.0, and this is 13.0"),
        (
            change("architectures", '["7.5"]'),
            "architectures",
            "7.5 is not in the source of SageAttention 2.2.0",
        ),
        (change("architectures", '["9.0"]'), "architectures", "9.0 is not in the source"),
        (change("platform_tag", '"linux_x86_64"'), "platform_tag", "is not a PEP 600 tag such"),
        (change("platform_tag", '"manylinux2014_x86_64"'), "platform_tag", "is not a PEP 600 tag"),
        (change("platform_tag", '"manylinux_2_34_riscv64"'), "platform_tag", "is not a PEP 600 tag"),
        (change("platform_tag", '"manylinux_2_34_aarch64"'), "", "Rename it to cp313-cu130-aarch64.toml"),
        (
            NATIVE.replace("x86_64", "aarch64").replace("13.0", "12.8").replace("cu130", "cu128"),
            "platform_tag",
            "CUDA 12.8 has a compiler for x86_64 only",
        ),
        (change("upstream", '"v9.9"'), "upstream", "so v9.9 can't be built"),
        (change("upstream", '"../v2.2.0"'), "upstream", "is not a folder of patches/"),
        (NATIVE + 'toolchain = "cu130"\n', "toolchain", "is not a table"),
        (NATIVE + "[toolchain]\n", "packages", "missing"),
        (NATIVE + "[toolchain\n", "", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(targets: Path, text: str, key: str, said: str) -> None:
    stable = 'abi = "stable"' in text and "torch_minimum" in text
    path = write(targets, text, "abi3-cu130" if stable else "cp313-cu130")
    with pytest.raises(TargetError) as caught:
        load_target(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert said in message


@pytest.mark.parametrize(("architecture", "first"), [("12.0", "12.8"), ("10.0", "12.8"), ("12.1", "12.9")])
def test_an_architecture_too_new_for_the_cuda_version_is_refused(
    targets: Path, architecture: str, first: str
) -> None:
    text = NATIVE.replace('cuda = "13.0"', 'cuda = "12.6"').replace("cu130", "cu126")
    text = text.replace('"8.9"', f'"{architecture}"')
    with pytest.raises(TargetError, match=f"architectures: {architecture} needs CUDA {first} or newer"):
        load_target(write(targets, text + ARCHIVE, "cp313-cu126"))


@pytest.mark.parametrize("name", ["cp312-cu130", "cp313-cu128", "abi3-cu130", "cp313-cu130-new"])
def test_a_name_that_disagrees_with_the_content_is_refused(targets: Path, name: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(write(targets, NATIVE, name))
    assert f"{name}.toml: the file's name disagrees" in caught.value.message
    assert "Rename it to cp313-cu130.toml" in caught.value.remedy


def test_a_cuda_version_without_a_toolchain_says_which_file_to_add(targets: Path) -> None:
    text = NATIVE.replace("13.0", "13.2").replace("cu130", "cu132")
    with pytest.raises(TargetError) as caught:
        load_target(write(targets, text, "cp313-cu132"))
    assert "toolchains/cu132.toml not found (there: cu128.toml, cu130.toml)" in caught.value.message
    assert "[toolchain] table" in caught.value.remedy


def test_a_wrong_shared_toolchain_is_refused_by_its_own_name(targets: Path) -> None:
    shared = targets / "toolchains" / "cu130.toml"
    shared.write_text('packages = ["cuda-toolkit[nvcc]"]\n')
    with pytest.raises(TargetError, match=r"toolchains/cu130\.toml: packages: .* is not pinned"):
        load_target(write(targets, NATIVE))


def test_a_mirror_on_this_machine_may_serve_by_http(targets: Path) -> None:
    text = change("torch_index", '"http://127.0.0.1:8080/simple/"')
    assert load_target(write(targets, text)).torch_index == "http://127.0.0.1:8080/simple"


def test_a_folder_without_targets_and_a_missing_file_are_refused(targets: Path) -> None:
    with pytest.raises(TargetError, match="no target file"):
        load_targets(targets)
    with pytest.raises(TargetError, match=r"cp314-cu130\.toml: not found"):
        load_target(targets / "cp314-cu130.toml")


def test_a_target_is_found_by_name_or_the_names_are_said() -> None:
    assert find_target("cp312-cu130").name == "cp312-cu130"
    with pytest.raises(UsageError) as caught:
        find_target("cp399-cu130")
    assert "abi3-cu128, abi3-cu130, abi3-cu130-aarch64, cp311-cu128, cp312-cu130" in caught.value.remedy


def test_targets_load_without_anything_heavy_and_fast() -> None:
    """`nox -l` has one second, and must not need what only the build's environment has."""
    code = "import sys, builder.target.targets as t; t.load_targets(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=TARGETS_DIR.parent, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "builder.target.targets" in loaded
    assert not {"requests", "urllib3", "elftools", "unidiff", "torch", "cyclonedx"} & set(loaded)
    start = time.perf_counter()
    load_targets()
    assert time.perf_counter() - start < 0.1
