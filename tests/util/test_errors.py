"""Every kind of failure has its own exit code, and says what to do."""

from __future__ import annotations

import inspect

from builder.util import errors
from builder.util.errors import BuilderError

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, BuilderError) and kind is not BuilderError
]


def test_each_kind_has_an_exit_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in KINDS]
    # 0 is success, 1 a crash, and from 126 shells use them.
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) <= set(range(2, 126))
