"""What a wheel claims to be for, and which torches there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_wheels import NATIVE, OLDER_CUDA, UNIVERSAL, make_ours
from packaging.specifiers import SpecifierSet

from builder.check.combinations import Newest, each_minor, read_claim, read_resolution
from builder.util.process import Finished


@pytest.mark.parametrize(
    ("wheel", "torch", "python", "reason"),
    [
        (UNIVERSAL, "2.10.0", "3.10", ""),
        (UNIVERSAL, "2.15.0", "3.14", ""),
        (UNIVERSAL, "2.12", "3.13", ""),
        (UNIVERSAL, "2.9.1", "3.12", "the wheel requires torch>=2.10"),
        (UNIVERSAL, "2.12.0", "3.9", "the wheel's tag is for Python 3.10 and later"),
        (NATIVE, "2.11.0", "3.12", ""),
        (NATIVE, "2.12.0", "3.12", "the wheel requires torch==2.11.*"),
        (NATIVE, "2.11.0", "3.13", "the wheel's tag is for Python 3.12"),
    ],
)
def test_a_wheel_is_tried_with_what_it_claims(
    tmp_path: Path, wheel: str, torch: str, python: str, reason: str
) -> None:
    (path,) = make_ours(tmp_path, wheel)
    assert read_claim(path).why_not(torch, python) == reason


def test_the_cuda_version_comes_from_the_name(tmp_path: Path) -> None:
    claims = [read_claim(path) for path in make_ours(tmp_path, UNIVERSAL, OLDER_CUDA)]
    assert {claim.label.cuda for claim in claims} == {"13.0", "12.8"}


def test_the_resolver_tells_a_version_or_why_there_is_none() -> None:
    assert read_resolution(Finished(0, "torch==2.12.1\n", "")) == Newest("2.12.1")
    errors = """error: No solution found when resolving dependencies:
  cause: Because torch==2.15.0 has no wheels with a matching Python implementation tag (e.g., `cp310`) and
         you require torch==2.15.0, we can conclude that your requirements are unsatisfiable."""
    reason = "torch==2.15.0 has no wheels with a matching Python implementation tag (e.g., `cp310`)"
    assert read_resolution(Finished(1, "", errors)) == Newest("", reason, missing=True)


def test_an_index_that_can_not_be_asked_is_not_the_lack_of_a_torch() -> None:
    answer = Finished(2, "", "error: Failed to fetch\n  timed out\n")
    assert read_resolution(answer) == Newest("", "error: Failed to fetch timed out")


def test_the_newest_of_each_minor_version_is_looked_for() -> None:
    there = ["2.9.1", "2.10.0", "2.11.0", "2.11.1", "2.13.0"]

    def newest(text: str) -> str:
        return next((one for one in reversed(there) if SpecifierSet(text).contains(one)), "")

    assert each_minor(">=2.10", newest) == ["2.10.0", "2.11.1", "2.13.0"]
    assert each_minor("==2.11.*", newest) == ["2.11.1"]
    assert each_minor(">=3", newest) == []


def test_an_index_that_answers_the_same_again_ends_the_search() -> None:
    assert each_minor(">=2.10", lambda _: "2.10.0") == ["2.10.0"]
