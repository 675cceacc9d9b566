"""The import check, run by a clean environment's Python over a made-up torch and wheels of every kind."""

from __future__ import annotations

import json
import platform
import subprocess
import venv
from pathlib import Path

import pytest
from made_up_environments import GOOD, TORCH, environment

from builder.check import import_check
from builder.check.import_check import NO_DRIVER, check, extension_modules
from builder.util.errors import AuditError

SWALLOWING = """
def sageattn(): pass
try:
    from . import _qattn_sm90
except BaseException:
    pass
"""


def test_names_of_extensions() -> None:
    upstream = [
        "sageattention/_fused.cpython-312-x86_64-linux-gnu.so",
        "sageattention/_qattn_sm80.cpython-312-x86_64-linux-gnu.so",
        "sageattention/core.py",
        "sageattention/triton/_fused.py",
    ]
    ours = [
        "sageattention/_fused.py",
        "sageattention/_library.py",
        "sageattention/lib/_fused.so",
        "../../bin/x",
    ]
    assert extension_modules(upstream) == {"_fused": True, "_qattn_sm80": True}
    assert extension_modules(ours) == {"_fused": True}
    assert extension_modules(ours[:2]) == {"_fused": False}


def test_a_good_wheel(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", GOOD)
    where = f"Python {platform.python_version()}, torch 2.11.0+cu130 (CUDA 13.0)"
    assert check(python) == [
        f"{where}: 2.2.0+cu130.torch2.11 imported, 1 operators",
        "_fused: loaded, 1 functions",
        "_qattn_sm90: loaded, 1 functions",
    ]


def test_the_json(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", GOOD)
    script = import_check.__file__
    done = subprocess.run([python, "-I", script], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["version"] == "2.2.0+cu130.torch2.11"
    assert result["functions"] == ["sageattn", "sageattn_varlen"]
    assert result["operators"] == {"sage::fuse": "sage::fuse(Tensor a) -> ()"}
    assert result["extensions"]["_fused"] == {"library": True, "loaded": True, "functions": ["fuse"]}
    assert result["problems"] == []


def test_an_extension_whose_error_the_package_swallows_is_found(tmp_path: Path) -> None:
    swallowed = {
        **GOOD,
        "__init__.py": SWALLOWING,
        "_qattn_sm90.py": "raise ImportError('undefined symbol: _ZN3c105ErrorE')\n",
    }
    with pytest.raises(AuditError, match=r"import sageattention\._qattn_sm90: ImportError: undefined symbol"):
        check(environment(tmp_path / "venv", swallowed))


def test_a_library_that_this_wheel_does_not_hold_is_no_error(tmp_path: Path) -> None:
    some = {name: text for name, text in GOOD.items() if name != "lib/_qattn_sm90.so"}
    some["_qattn_sm90.py"] = "raise ImportError('this build has no _qattn_sm90.so')\n"
    assert check(environment(tmp_path / "venv", some))[-1] == "_qattn_sm90: not in this wheel"


def test_a_driver_that_is_not_there_can_be_tolerated(tmp_path: Path) -> None:
    missing = {**GOOD, "_qattn_sm90.py": f"raise ImportError('{NO_DRIVER}: No such file')\n"}
    python = environment(tmp_path / "venv", missing)
    with pytest.raises(AuditError, match=r"libcuda\.so\.1"):
        check(python)
    lines = check(python, tolerate=[NO_DRIVER])
    assert "_qattn_sm90: not loaded" in lines
    assert lines[-1].startswith("tolerated: import sageattention._qattn_sm90: ImportError: libcuda.so.1")


def test_an_interpreter_that_dies(tmp_path: Path) -> None:
    dying = {
        **GOOD,
        "__init__.py": "import os, sys\nprint('c10::Error', file=sys.stderr, flush=True)\nos.abort()\n",
    }
    with pytest.raises(AuditError, match=r"ended the interpreter \(signal 6\):\n    c10::Error"):
        check(environment(tmp_path / "venv", dying))


@pytest.mark.parametrize(
    ("files", "torch", "message"),
    [
        (GOOD, "raise OSError('libcudart.so.13: cannot open')", "import torch: OSError: libcudart"),
        ({**GOOD, "__init__.py": "1 / 0"}, TORCH, "import sageattention: ZeroDivisionError"),
        ({**GOOD, "__init__.py": ""}, TORCH, r"has no function sageattn\*"),
        ({"__init__.py": "def sageattn(): pass"}, TORCH, "has no extension"),
    ],
)
def test_other_problems(tmp_path: Path, files: dict[str, str], torch: str, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        check(environment(tmp_path / "venv", files, torch))


def test_nothing_installed(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    with pytest.raises(AuditError, match=r"(?s)ended the interpreter \(status 1\).*PackageNotFoundError"):
        check(tmp_path / "venv" / "bin" / "python")


def test_the_contract_is_checked_when_asked_for(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", GOOD)
    with pytest.raises(AuditError, match=r"sageattention\.core\.SM80_ENABLED") as raised:
        check(python, contract=True)
    # This wheel has the library, but not the names beside it; it has no other library.
    assert "sageattention.sm90_compile._qattn_sm90" in str(raised.value)
    assert "sageattention.sm80_compile" not in str(raised.value)
