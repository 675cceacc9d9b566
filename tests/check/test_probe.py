"""What importing a wheel finds: the probe, over a small torch and packages of every kind."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.environments import GOOD, OPERATORS, TORCH, environment

from builder.check import probe
from builder.check.new_wheels import imported
from builder.util.errors import AuditError

BROKEN_LIBRARY = "raise ImportError('no _fused.so') from OSError('libodd.so.1: cannot open')\n"
SWALLOWING = """
def sageattn(): pass
try:
    from . import _qattn_sm90
except BaseException:
    pass
"""


def test_extensions_of_this_project_and_of_others() -> None:
    ours = ["_fused.py", "_library.py", "lib/_fused.so", "_qattn_sm80.py", "../../bin/x"]
    others = ["_fused.cpython-312-x86_64-linux-gnu.so", "core.py", "triton/_fused.py"]
    for files, modules in ((ours, {"_fused": True, "_qattn_sm80": False}), (others, {"_fused": True})):
        assert probe.extension_modules([f"sageattention/{file}" for file in files]) == modules


def probed(tmp_path: Path, files: dict[str, str], torch: str = TORCH, *options: str) -> dict[str, Any]:
    """What the probe finds with a folder that has torch, and one with an unpacked wheel."""
    made = environment(tmp_path / "venv", files, torch)
    wheel = next(made.parent.parent.glob("lib/python3*/site-packages"))
    (tmp_path / "site").mkdir()
    (wheel / "torch.py").rename(tmp_path / "site" / "torch.py")
    return probe.run([sys.executable], [tmp_path / "site", wheel], options=options)


def test_a_good_wheel(tmp_path: Path) -> None:
    found = probed(tmp_path, GOOD)
    where = f"Python {platform.python_version()}, torch 2.11.0+cu130 (CUDA 13.0)"
    line = f"{where}: 2.2.0+cu130.torch2.11 imported, 1 operators of _fused, _qattn_sm90"
    assert imported(found) == line
    assert probe.run([environment(tmp_path / "other", GOOD)]) == found


def test_a_library_that_this_wheel_does_not_hold_is_no_error(tmp_path: Path) -> None:
    some = {name: text for name, text in GOOD.items() if name != "lib/_qattn_sm90.so"}
    some["_qattn_sm90.py"] = "raise ImportError('this build has no _qattn_sm90.so')\n"
    assert imported(probed(tmp_path, some)).endswith("1 operators of _fused")


@pytest.mark.parametrize(
    ("files", "torch", "message"),
    [
        ({}, "raise OSError('libcudart.so.13: cannot open')", "import torch: OSError: libcudart.so.13: cann"),
        ({"__init__.py": "1 / 0"}, TORCH, "import sageattention: ZeroDivisionError"),
        # What this environment has, a user's need not have.
        ({"__init__.py": "import pytest"}, TORCH, "ModuleNotFoundError: No module named 'pytest'"),
        ({"__init__.py": ""}, TORCH, r"has no function sageattn\*"),
        ({"_fused.py": BROKEN_LIBRARY}, TORCH, "ImportError: no _fused.so: OSError: libodd.so.1: cannot"),
        (
            {"__init__.py": SWALLOWING, "_qattn_sm90.py": "raise ImportError('undefined symbol: _ZN3c10')"},
            TORCH,
            r"import sageattention\._qattn_sm90: ImportError: undefined symbol",
        ),
        (
            {"__init__.py": "import os, sys\nprint('c10::Error', file=sys.stderr, flush=True)\nos.abort()\n"},
            TORCH,
            r"the interpreter ended with signal 6: c10::Error",
        ),
        (
            {"__init__.py": "import atexit, os\ndef sageattn(): pass\natexit.register(os.abort)\n"},
            TORCH,
            "the interpreter ended with signal 6 afterwards",
        ),
    ],
)
def test_what_can_not_be_used(
    tmp_path: Path, files: dict[str, str], torch: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest.__file__).parent.parent))
    with pytest.raises(AuditError, match=message):
        imported(probed(tmp_path, {**GOOD, **files}, torch))


def test_a_package_without_extensions(tmp_path: Path) -> None:
    files = {"__init__.py": GOOD["__init__.py"]}
    assert probed(tmp_path, files)["problems"] == ["sageattention has no extension"]


def test_the_calls_of_clients_are_checked_when_asked_for(tmp_path: Path) -> None:
    problems = "\n".join(probed(tmp_path, GOOD, TORCH, "--client-calls")["problems"])
    assert "sageattention.core.SM80_ENABLED" in problems
    # This wheel has the library, but not the names beside it; it has no other library.
    assert "sageattention.sm90_compile._qattn_sm90" in problems
    assert "sageattention.sm80_compile" not in problems


def test_each_operator_is_called_on_fake_tensors_and_on_the_cpu(tmp_path: Path) -> None:
    registers = "import torch\ntorch.register('good', refuses=True)\ntorch.register('bad', refuses=False)\n"
    files = {**GOOD, "_fused.py": registers}
    assert probed(tmp_path, files, TORCH + OPERATORS, "--operators")["problems"] == [
        "sageattention::bad: no code for CUDA is registered",
        "sageattention::bad: its host code: AssertionError: takes tensors on the CPU without an exception",
    ]
