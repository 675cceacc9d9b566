"""The compatibility probe, run by a clean environment's Python over a made-up torch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from made_up_environments import GOOD, TORCH, environment

from builder.check import compatibility_probe

# What the probe asks of torch: schemas, dispatch, fake tensors, and operators to call.
MORE_TORCH = """
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

class Schema:
    def __init__(self, name, overload=""):
        self.name, self.overload_name = name, overload
    def __str__(self):
        return f"{self.name}(Tensor query) -> ()"

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
REGISTERS = """
import torch
torch.register("good", refuses=True)
torch.register("bad", refuses=False)
"""


def probe(python: Path) -> dict[str, Any]:
    script = Path(str(compatibility_probe.__file__))
    done = subprocess.run([python, "-I", script], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_operator_is_called_on_fake_tensors_and_on_the_cpu(tmp_path: Path) -> None:
    found = probe(environment(tmp_path / "venv", {**GOOD, "_fused.py": REGISTERS}, TORCH + MORE_TORCH))
    good, bad = "sageattention::good", "sageattention::bad"
    assert found["problems"] == []
    assert found["operators"] == {name: f"{name}(Tensor query) -> ()" for name in (good, bad)}
    assert found["kernels"] == {good: True, bad: False}
    assert found["fake"] == {good: "", bad: ""}
    assert found["host"] == {
        good: "",
        bad: "AssertionError: takes tensors on the CPU without an exception",
    }
    assert found["trace"] is None, "the whole path needs extensions that this wheel does not have"


def test_the_loaders_own_reason_comes_first(tmp_path: Path) -> None:
    broken = {**GOOD, "_fused.py": "raise OSError('Could not load this library')\n"}
    found = probe(environment(tmp_path / "venv", broken))
    assert found["problems"][0].startswith("_fused.so: ")
    assert found["problems"][0].endswith("file too short")
    assert found["problems"][-1] == "import sageattention._fused: OSError: Could not load this library"


def test_without_torch_there_is_nothing_to_call(tmp_path: Path) -> None:
    found = probe(environment(tmp_path / "venv", GOOD, "raise ImportError('libcudart.so.13')"))
    assert found["operators"] == {}
    assert "import torch: ImportError: libcudart.so.13" in found["problems"]
