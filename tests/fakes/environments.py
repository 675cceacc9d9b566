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
# What the probe asks of torch: schemas, dispatch, fake tensors, and operators to call.
OPERATORS = """
import contextlib, sys

class Operator:
    def __init__(self, name, refuses):
        self._name, self._refuses = name, refuses
        argument = types.SimpleNamespace(name="query", type="Tensor")
        self._schema = types.SimpleNamespace(arguments=[argument], returns=[])
    def name(self):
        return self._name
    def __call__(self, query):
        assert query.device == "cuda:0"
    def redispatch(self, keys, query):
        assert query.device == "cpu"
        if self._refuses:
            raise RuntimeError("query must be on CUDA")

def register(name, refuses):
    registered.append(Schema(f"sageattention::{name}"))
    packet = types.SimpleNamespace(default=Operator(f"sageattention::{name}", refuses))
    setattr(ops.sageattention, name, packet)

ops = types.SimpleNamespace(sageattention=types.SimpleNamespace())
_C._dispatch_has_kernel_for_dispatch_key = lambda name, key: name.endswith("good") and key == "CUDA"
_C.DispatchKey = types.SimpleNamespace(CUDA="CUDA")
_C.DispatchKeySet = lambda key: {key}
int8 = float16 = float32 = float8_e4m3fn = "dtype"
empty = lambda shape, dtype, device: types.SimpleNamespace(shape=shape, device=device)
__path__ = []
fake_tensor = types.ModuleType("torch._subclasses.fake_tensor")
fake_tensor.FakeTensorMode = contextlib.nullcontext
sys.modules["torch._subclasses"] = types.ModuleType("torch._subclasses")
sys.modules["torch._subclasses.fake_tensor"] = fake_tensor
"""
FUSED = """
import torch
torch.registered.append(torch.Schema("sageattention::fuse"))
"""
GOOD = {
    "__init__.py": "def sageattn(): pass\n",
    "_fused.py": FUSED,
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
    lines = ["Metadata-Version: 2.4", "Name: sageattention", "Version: 2.2.0+cu130.torch2.11"]
    lines += ["Requires-Dist: torch==2.11.*", "Requires-Python: >=3.10"]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text("".join(f"sageattention/{name},,\n" for name in files))
    for name, text in files.items():
        (site_packages / "sageattention" / name).parent.mkdir(parents=True, exist_ok=True)
        (site_packages / "sageattention" / name).write_text(text)
    return folder / "bin" / "python"
