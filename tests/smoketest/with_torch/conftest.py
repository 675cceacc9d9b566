"""The rows of the smoke test, run on the CPU on a fake sageattention.

They need torch, so they are marked `torch`, and an environment without it does not collect them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from builder.smoketest.attention.subject import Subject
    from builder.smoketest.plan import RowSpec
    from builder.smoketest.report import Result

HERE = Path(__file__).parent
FAKE = HERE.parents[1] / "fakes" / "fake_sageattention"
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "torch: needs torch, on the CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("torch")


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """The fake on the CPU, installed as `sageattention`; its fault is the environment's FAKE_FAULT."""
    import torch  # noqa: PLC0415

    from builder.smoketest.attention.subject import Subject  # noqa: PLC0415

    monkeypatch.syspath_prepend(str(FAKE))
    for name in [name for name in sys.modules if name.split(".")[0] == "sageattention"]:
        monkeypatch.delitem(sys.modules, name)
    # One thread: the tensors are small, and a busy machine makes several wait for each other.
    torch.set_num_threads(1)
    with torch.no_grad():
        yield Subject(importlib.import_module("sageattention"), "cpu", (9, 0))


@pytest.fixture
def run(subject: Subject) -> Callable[[RowSpec], Result]:
    """Run a row on the fake."""

    from builder.smoketest.rows import run_row  # noqa: PLC0415

    return partial(run_row, subject)
