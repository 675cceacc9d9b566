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
# What the probe asks of torch to call operators: dispatch, fake tensors, and operators.
OPERATORS = """
import sys
from unittest.mock import MagicMock

class Operator:
    _schema = types.SimpleNamespace(arguments=[MagicMock(type="Tensor")], returns=[])
    def __init__(self, refuses):
        self.refuses = refuses
    def name(self):
        return "operator"
    def __call__(self, query):
        assert query.device == "cuda:0"
    def redispatch(self, keys, query):
        assert query.device == "cpu"
        if self.refuses:
            raise RuntimeError("query must be on CUDA")

def register(name, refuses):
    registered.append(Schema(f"sageattention::{name}"))
    setattr(ops.sageattention, name, types.SimpleNamespace(default=Operator(refuses)))

ops = types.SimpleNamespace(sageattention=types.SimpleNamespace())
_C._dispatch_has_kernel_for_dispatch_key = lambda name, key: name.endswith("good") and key == "CUDA"
_C.DispatchKey = _C.DispatchKeySet = MagicMock()
int8 = float16 = float32 = float8_e4m3fn = "dtype"
empty = lambda shape, dtype, device: types.SimpleNamespace(shape=shape, device=device)
sys.modules["torch._subclasses.fake_tensor"] = MagicMock()
"""
GOOD = {
    "__init__.py": "def sageattn(): pass\n",
    "_fused.py": "import torch\ntorch.registered.append(torch.Schema('sageattention::fuse'))\n",
    "_qattn_sm90.py": "",
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
    (info / "METADATA").write_text("Name: sageattention\nVersion: 2.2.0+cu130.torch2.11\n")
    (info / "RECORD").write_text("".join(f"sageattention/{name},,\n" for name in files))
    for name, text in files.items():
        (site_packages / "sageattention" / name).parent.mkdir(parents=True, exist_ok=True)
        (site_packages / "sageattention" / name).write_text(text)
    return folder / "bin" / "python"
