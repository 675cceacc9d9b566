"""The import check, over a small torch and wheels of every kind: unpacked, and installed."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from fakes.environments import GOOD, TORCH, environment

from builder.check.import_check import check, extension_modules
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


def folders(tmp_path: Path, files: dict[str, str], torch: str = TORCH) -> list[Path]:
    """A folder with torch, and one with an unpacked wheel."""
    made = environment(tmp_path / "venv", files, torch)
    wheel = next(made.parent.parent.glob("lib/python3*/site-packages"))
    (tmp_path / "site").mkdir()
    (wheel / "torch.py").rename(tmp_path / "site" / "torch.py")
    return [tmp_path / "site", wheel]


def test_a_good_wheel(tmp_path: Path) -> None:
    where = f"Python {platform.python_version()}, torch 2.11.0+cu130 (CUDA 13.0)"
    lines = [
        f"{where}: 2.2.0+cu130.torch2.11 imported, 1 operators",
        "_fused: loaded",
        "_qattn_sm90: loaded",
    ]
    assert check([sys.executable], folders(tmp_path, GOOD)) == lines
    assert check([environment(tmp_path / "other", GOOD)]) == lines


def test_nothing_but_the_folders_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what this environment has, which a user's need not have."""
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest.__file__).parent.parent))
    needy = {**GOOD, "__init__.py": f"import pytest\n{GOOD['__init__.py']}"}
    with pytest.raises(AuditError, match="ModuleNotFoundError: No module named 'pytest'"):
        check([sys.executable], folders(tmp_path, needy))


def test_an_extension_whose_error_the_package_swallows_is_found(tmp_path: Path) -> None:
    swallowed = {
        **GOOD,
        "__init__.py": SWALLOWING,
        "_qattn_sm90.py": "raise ImportError('undefined symbol: _ZN3c105ErrorE')\n",
    }
    with pytest.raises(AuditError, match=r"import sageattention\._qattn_sm90: ImportError: undefined symbol"):
        check([sys.executable], folders(tmp_path, swallowed))


def test_a_library_that_this_wheel_does_not_hold_is_no_error(tmp_path: Path) -> None:
    some = {name: text for name, text in GOOD.items() if name != "lib/_qattn_sm90.so"}
    some["_qattn_sm90.py"] = "raise ImportError('this build has no _qattn_sm90.so')\n"
    assert check([sys.executable], folders(tmp_path, some))[-1] == "_qattn_sm90: not in this wheel"


@pytest.mark.parametrize(
    ("files", "torch", "message"),
    [
        (GOOD, "raise OSError('libcudart.so.13: cannot open')", "import torch: OSError: libcudart"),
        ({**GOOD, "__init__.py": "1 / 0"}, TORCH, "import sageattention: ZeroDivisionError"),
        ({**GOOD, "__init__.py": ""}, TORCH, r"has no function sageattn\*"),
        ({"__init__.py": "def sageattn(): pass"}, TORCH, "has no extension"),
        (
            {**GOOD, "__init__.py": "import os, sys\nprint('c10::Error', file=sys.stderr)\nos.abort()\n"},
            TORCH,
            r"ended the interpreter \(signal 6\)",
        ),
    ],
)
def test_other_problems(tmp_path: Path, files: dict[str, str], torch: str, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        check([sys.executable], folders(tmp_path, files, torch))


def test_the_contract_is_checked_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"sageattention\.core\.SM80_ENABLED") as raised:
        check([sys.executable], folders(tmp_path, GOOD), contract=True)
    # This wheel has the library, but not the names beside it; it has no other library.
    assert "sageattention.sm90_compile._qattn_sm90" in str(raised.value)
    assert "sageattention.sm80_compile" not in str(raised.value)
