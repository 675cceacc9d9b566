"""What an answer means, and which ones are of another form."""

from __future__ import annotations

import pytest

from builder.util.github.reply import GitHubError, checked, failure, is_transient, wait_seconds


@pytest.mark.parametrize(
    ("status", "headers", "transient"),
    [
        (500, {}, True),
        (503, {}, True),
        (429, {}, True),
        (403, {}, False),
        (403, {"Retry-After": "1"}, True),
        (403, {"X-RateLimit-Remaining": "0"}, True),
        (403, {"X-RateLimit-Remaining": "59"}, False),
        (404, {}, False),
        (422, {}, False),
    ],
)
def test_what_is_worth_another_try(status: int, headers: dict[str, str], transient: bool) -> None:
    assert is_transient(status, headers) is transient


def test_how_long_to_wait() -> None:
    assert wait_seconds({"Retry-After": "30"}, 0) == 30
    assert wait_seconds({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1100"}, 1000) == 100
    assert wait_seconds({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "900"}, 1000) == 0
    assert wait_seconds({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "1100"}, 1000) is None
    assert wait_seconds({}, 0) is None


@pytest.mark.parametrize("values", [None, [], "x", 1, True])
def test_an_object_of_an_answer_is_one(values: object) -> None:
    with pytest.raises(GitHubError, match="is not a release"):
        checked("a release", values)


def test_odd_waits_are_none() -> None:
    for text in ("\xb2", "-1", "1e9", "soon", "9" * 5000):
        assert wait_seconds({"Retry-After": text}, 0) in (None, float("inf"))
        assert wait_seconds({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": text}, 0) in (
            None,
            float("inf"),
        )


def test_a_failure_says_what_the_api_says() -> None:
    body = '{"message": "Validation Failed.", "errors": [{"code": "exists"}, {"message": "bad"}, "odd"]}'
    error = failure("POST x: 422 No", 422, {}, body)
    assert (error.status, error.message) == (422, "POST x: 422 No: Validation Failed.; exists; bad; odd.")
    assert "write access" in failure("x", 404, {}, "<html>").remedy
    for odd in ("[]", '{"errors": 3}', '{"message": ["a"], "errors": [[]]}', '{"a":' * 50_000, ""):
        assert failure("x", 500, {}, odd).message.startswith("x")
    assert len(failure("x" * 9000, 500, {}, f'{{"message": "{"y" * 9000}"}}').message) < 1100
