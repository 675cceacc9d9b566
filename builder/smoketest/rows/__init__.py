"""The functions that run the rows, a module or folder for each group; `builder.smoketest.plan` lists them."""

from __future__ import annotations

import importlib

import torch

from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, verdict


def run_row(subject: Subject, spec: RowSpec) -> Result:
    """Run a row: its function returns a `Result`, or attempts of which none may have a problem."""
    module, _, function = spec.run.rpartition(".")
    torch.manual_seed(spec.seed(subject.seed))
    done = getattr(importlib.import_module(f"{__name__}.{module}"), function)(subject, spec)
    if isinstance(done, Result):
        return done
    return verdict(problems_of(done), {"attempts": float(len(done))})
