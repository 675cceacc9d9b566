"""Write the tables of docs/ that are made from the code: `python -m docs.tables`.

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has the names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder.smoketest.report import ENDINGS
from builder.util import errors

DOCS = Path(__file__).resolve().parent
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _errors() -> str:
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.BuilderError) and kind is not errors.BuilderError
    ]
    rows = [
        (str(kind.exit_code), kind.__doc__ or "") for kind in sorted(kinds, key=lambda kind: kind.exit_code)
    ]
    return _table(("Exit code", "What is wrong"), rows)


def _smoke_test_exit_codes() -> str:
    return _table(("Exit code", "Meaning"), [(str(code.value), ENDINGS[code]) for code in ENDINGS])


TABLES = {"errors": _errors, "smoke_test_exit_codes": _smoke_test_exit_codes}


def fresh(page: str) -> str:
    """Return a page with its tables as the code has them."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]](), page)


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        path.write_text(fresh(path.read_text(encoding="utf-8")), encoding="utf-8")
