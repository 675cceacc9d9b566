"""The matrix: schemas agree, the table says what is what, and nothing else reads as ok."""

from __future__ import annotations

import pytest

from builder.check.matrix import NOTHING_TESTED, Cell, CellStatus, agree, difference, table, worst

NAME = "sageattention::attend"
SCHEMA = f"{NAME}(Tensor query, Tensor(a!) output) -> Tensor"
OTHER_SCHEMA = f"{NAME}(Tensor query, Tensor output) -> Tensor"


def ok(torch: str, python: str, operators: dict[str, str] | None = None) -> Cell:
    return Cell(torch, python, CellStatus.OK, operators={NAME: SCHEMA} if operators is None else operators)


def test_schemas_are_those_of_the_first_that_is_ok() -> None:
    failed = Cell("2.10.0", "3.10", CellStatus.FAILED, "x", operators={})
    cells = [failed, ok("2.11.0", "3.10"), ok("2.12.1", "3.10"), ok("2.13.0", "3.10", {NAME: OTHER_SCHEMA})]
    agree(cells)
    assert [cell.status for cell in cells] == [
        CellStatus.FAILED,
        CellStatus.OK,
        CellStatus.OK,
        CellStatus.FAILED,
    ]
    assert failed.reason == "x"
    assert cells[3].reason == f"{OTHER_SCHEMA} here, {SCHEMA} there (torch 2.11.0, Python 3.10)"


def test_missing_and_added_operators_are_told() -> None:
    assert difference({NAME: SCHEMA}, {NAME: SCHEMA}) == ""
    assert difference({NAME: SCHEMA}, {}) == f"{NAME} is missing here, and was there"
    assert difference({}, {NAME: SCHEMA}) == f"{NAME} is here, and was not there"


def test_the_table_has_a_row_a_torch_and_a_column_a_python() -> None:
    cells = [
        ok("2.11.0", "3.10"),
        Cell("2.11.0", "3.14", CellStatus.NO_PYTHON, "Python 3.14 is not on this machine"),
        Cell("2.15.0", "3.10", CellStatus.NO_TORCH, "no wheels"),
        Cell("2.15.0", "3.14", CellStatus.FAILED, "no wheels"),
    ]
    assert table(cells) == [
        "torch   Python 3.10        Python 3.14",
        "2.11.0  ok                 no such Python [1]",
        "2.15.0  no such torch [2]  FAILED [2]",
        "[1] Python 3.14 is not on this machine",
        "[2] no wheels",
        "1 ok, 1 FAILED, 1 no such torch, 1 no such Python",
    ]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([CellStatus.OK, CellStatus.NO_TORCH, CellStatus.NO_PYTHON, CellStatus.NOT_CLAIMED], 0),
        ([CellStatus.OK, CellStatus.FAILED, CellStatus.NOT_TESTED], 1),
        ([CellStatus.OK, CellStatus.NOT_TESTED], NOTHING_TESTED),
        ([CellStatus.NO_TORCH, CellStatus.NO_PYTHON], NOTHING_TESTED),
        ([], NOTHING_TESTED),
    ],
)
def test_what_was_not_tested_is_no_pass(statuses: list[CellStatus], status: int) -> None:
    assert worst([Cell("2.11.0", "3.12", one) for one in statuses]) == status
