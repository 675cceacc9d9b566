"""Virtual environments with a made-up torch and sageattention, for what the checks run in them."""

from __future__ import annotations

import venv
from pathlib import Path

TORCH = """
import types
__version__ = "2.11.0+cu130"
version = types.SimpleNamespace(cuda="13.0")
registered = []

class Schema:
    def __init__(self, name, overload=""):
        self.name, self.overload_name = name, overload
    def __str__(self):
        return f"{self.name}(Tensor a) -> ()"

_C = types.SimpleNamespace(_jit_get_all_schemas=lambda: [Schema("aten::add"), *registered])
"""
FUSED = """
import torch
torch.registered.append(torch.Schema("sage::fuse"))
def fuse(): pass
def _own(): pass
"""
GOOD = {
    "__init__.py": "def sageattn(): pass\ndef sageattn_varlen(): pass\n",
    "_fused.py": FUSED,
    "_qattn_sm90.py": "def attend(): pass\n",
    "lib/_fused.so": "",
    "lib/_qattn_sm90.so": "",
}


def environment(folder: Path, files: dict[str, str], torch: str = TORCH) -> Path:
    """A virtual environment with a made-up torch and sageattention; returns its Python."""
    venv.create(folder, with_pip=False)
    site_packages = next(folder.glob("lib/python3*/site-packages"))
    (site_packages / "torch.py").write_text(torch)
    info = site_packages / "sageattention-2.2.0+cu130.torch2.11.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: sageattention", "Version: 2.2.0+cu130.torch2.11"]
    lines += ["Requires-Dist: torch==2.11.*", "Requires-Python: >=3.10"]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text("".join(f"sageattention/{name},,\n" for name in files))
    for name, text in files.items():
        (site_packages / "sageattention" / name).parent.mkdir(parents=True, exist_ok=True)
        (site_packages / "sageattention" / name).write_text(text)
    return folder / "bin" / "python"
