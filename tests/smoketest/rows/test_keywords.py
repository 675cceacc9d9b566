"""Arguments that are ignored are seen."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import Kernel, kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import KEYWORDS, MASKS, Check
from builder.smoketest.report.outcome import Result
from builder.smoketest.rows import keywords

SAGEATTN, VARLEN = kernels_for((9, 0), ("sageattn", "varlen"))


def run(standin: Subject, kernel: Kernel, row: str) -> Result:
    name = row.partition(".")[2]
    result = getattr(keywords, name)(standin, Check("arguments", kernel, name, row))
    assert isinstance(result, Result)
    return result


@pytest.mark.parametrize("row", (MASKS | KEYWORDS).values())
def test_a_package_that_honours_its_arguments_passes(standin: Subject, row: str) -> None:
    assert run(standin, SAGEATTN, row).reason == ""


@pytest.mark.parametrize("row", KEYWORDS.values())
def test_so_does_its_function_for_packed_sequences(standin: Subject, row: str) -> None:
    assert run(standin, VARLEN, row).reason == ""


@pytest.mark.parametrize(
    ("row", "reason"),
    {
        "keywords.bool_mask": "relative error",
        "keywords.float_mask": "relative error",
        "keywords.padding_mask": "relative error",
        "keywords.refused": "is_casual=True: accepted; smoth_k=False: accepted; window=7: accepted",
        "keywords.scales": "scale=0.05: cosine",
        "keywords.smooth_k": "no more error without it",
    }.items(),
)
def test_one_that_drops_them_fails(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, row: str, reason: str
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "swallows")
    assert reason in run(standin, SAGEATTN, row).reason


def test_a_bad_mask_has_to_be_refused(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "takes-anything")
    assert "with is_causal: accepted" in run(standin, SAGEATTN, "keywords.no_mask").reason


def test_names_that_the_signature_lacks_are_seen(standin: Subject) -> None:
    plain = standin.module.sageattn

    def swallowing(*tensors: object, **arguments: object) -> object:
        return plain(*tensors, **arguments)

    setattr(standin.module, SAGEATTN.function, swallowing)
    reason = run(standin, SAGEATTN, "keywords.accepted").reason
    assert reason.startswith("the signature: lacks is_causal, sm_scale, smooth_k, scale")
