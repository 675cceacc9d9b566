"""The stand-in for sageattention, for tests that need torch but no GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from builder.smoketest.subject import Subject

STANDIN = Path(__file__).with_name("standin")


@pytest.fixture
def standin() -> Subject:
    """The stand-in as a `Subject` on the CPU; its fault is the environment's STANDIN_FAULT."""
    pytest.importorskip("torch")
    from builder.smoketest.subject import Subject  # noqa: PLC0415 - needs torch

    spec = importlib.util.spec_from_file_location("standin", STANDIN / "sageattention" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Subject(module, "cpu", (9, 0))
