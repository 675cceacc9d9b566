"""Endings that are no failure of a kernel: each has its own exit code and one clear line."""

from __future__ import annotations

import importlib.machinery
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.smoketest.report import ExitCode
from builder.smoketest.run import environment

Isolated = Callable[[Path, dict[str, str], list[str]], subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your driver",
            ExitCode.DRIVER_TOO_OLD,
        ),
        ("CUDA driver version is insufficient for CUDA runtime version", ExitCode.DRIVER_TOO_OLD),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", ExitCode.NO_GPU),
        ("No CUDA GPUs are available", ExitCode.NO_GPU),
        (
            "CUDA error: no kernel image is available for execution on the device",
            ExitCode.GPU_NOT_IN_WHEEL,
        ),
    ],
)
def test_torchs_words_and_their_endings(message: str, code: ExitCode) -> None:
    values = {"torch": "2.11.0", "torch_cuda": "13.0", "driver": "470.1"}
    ending, line = environment.explain_cuda(message + "\nmore\nlines", values)
    assert ending is code
    assert message in line
    assert "\n" not in line


def test_a_wheel_for_another_python_is_known_by_its_file_names(tmp_path: Path) -> None:
    (tmp_path / "_fused.cpython-27-x86_64-linux-gnu.so").touch()
    assert environment.other_python(tmp_path) == "cpython-27"


def test_a_wheel_for_this_python_or_for_all_is_none_for_another(tmp_path: Path) -> None:
    (tmp_path / f"_fused{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    assert environment.other_python(tmp_path) == ""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "_qattn_sm90.so").touch()
    (tmp_path / "_qattn_sm80.abi3.so").touch()
    assert environment.other_python(tmp_path) == ""
    assert environment.compiled_files(tmp_path)["_qattn_sm90"] == ["_qattn_sm90.so"]


TORCH = """
__version__ = "2.11.0"
class version:
    cuda = {cuda!r}
class cuda:
    @staticmethod
    def init():
        raise RuntimeError({message!r})
"""


def test_without_torch(tmp_path: Path, isolated: Isolated) -> None:
    done = isolated(tmp_path, {}, [])
    assert done.returncode == ExitCode.TORCH_NOT_IMPORTABLE
    assert "torch can't be imported: No module named 'torch'" in done.stdout


def test_without_sageattention(tmp_path: Path, isolated: Isolated) -> None:
    done = isolated(tmp_path, {"torch.py": TORCH.format(cuda="13.0", message="")}, [])
    assert done.returncode == ExitCode.SAGEATTENTION_NOT_IMPORTABLE
    assert "No module named 'sageattention'" in done.stdout


def test_a_wheel_built_for_another_torch(tmp_path: Path, isolated: Isolated) -> None:
    broken = "raise ImportError('_fused.so: undefined symbol: _ZN3c10')"
    packages = {
        "torch.py": TORCH.format(cuda="13.0", message=""),
        "sageattention/__init__.py": "from . import _fused",
        "sageattention/_fused.py": broken,
    }
    done = isolated(tmp_path, packages, [])
    assert done.returncode == ExitCode.SAGEATTENTION_NOT_IMPORTABLE
    assert "the wheel was built for another torch" in done.stdout


def test_a_wheel_for_another_python(tmp_path: Path, isolated: Isolated) -> None:
    packages = {
        "torch.py": TORCH.format(cuda="13.0", message=""),
        "sageattention/__init__.py": "from . import _fused",
        "sageattention/_fused.cpython-27-x86_64-linux-gnu.so": "",
    }
    done = isolated(tmp_path, packages, [])
    assert done.returncode == ExitCode.WHEEL_FOR_ANOTHER_PYTHON
    assert "the wheel's modules are for cpython-27" in done.stdout


@pytest.mark.parametrize(
    ("cuda", "message", "code"),
    [
        ("13.0", "Found no NVIDIA driver on your system.", ExitCode.NO_GPU),
        ("13.0", "The NVIDIA driver on your system is too old (found 11040)", ExitCode.DRIVER_TOO_OLD),
        (None, "", ExitCode.TORCH_WITHOUT_CUDA),
    ],
)
def test_without_a_usable_gpu(
    tmp_path: Path, isolated: Isolated, cuda: str | None, message: str, code: ExitCode
) -> None:
    packages = {
        "torch.py": TORCH.format(cuda=cuda, message=message),
        "sageattention/__init__.py": "",
    }
    done = isolated(tmp_path, packages, [])
    assert done.returncode == code
    assert "passed" not in done.stdout
    assert done.stderr == ""


def test_imports_alone_need_no_gpu_and_say_that_nothing_was_computed(
    tmp_path: Path, isolated: Isolated
) -> None:
    packages = {
        "torch.py": TORCH.format(cuda="13.0", message="Found no NVIDIA driver"),
        "sageattention/__init__.py": "",
        "sageattention/_fused.py": "",
    }
    done = isolated(tmp_path, packages, ["--import-only"])
    assert done.returncode == ExitCode.FAILURES, "a module that lacks its functions is a failure"
    assert "lacks quant_per_block_int8_cuda" in done.stdout
    (tmp_path / "sageattention" / "_fused.py").unlink()
    done = isolated(tmp_path, {}, ["--import-only"])
    assert done.returncode == ExitCode.PASS
    assert "imports only: nothing was computed" in done.stdout
    assert "passed" not in done.stdout
