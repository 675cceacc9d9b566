"""What tests of several folders work on."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from builder.util.files import ROOT


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The build file that goes into upstream's tree, imported from where it lies."""
    sys.dont_write_bytecode = True  # nothing is to lie beside the file
    path = ROOT / "patches" / "v2.2.0" / "files" / "build_extensions.py"
    spec = importlib.util.spec_from_file_location("build_extensions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
