"""Every kind of failure has its own exit code."""

from __future__ import annotations

import inspect

from builder.util import errors


def test_each_kind_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.BuilderError)
    ]
    codes = [kind.exit_code for kind in kinds]
    assert len(codes) == len(set(codes))
    assert set(codes) <= set(range(1, 126)), "0 is success, and from 126 shells use them"
