"""Which rows of a long result are compared."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.rows.long import sampled_rows


def test_the_sampled_rows_reach_from_the_first_to_the_last() -> None:
    rows = sampled_rows(270_000).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == 9 * 64
    assert (rows[0], rows[-1]) == (0, 269_999)
