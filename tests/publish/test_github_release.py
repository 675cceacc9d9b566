"""Making and completing a release, with failures in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from made_up_wheels import (
    NATIVE,
    UNIVERSAL,
    make_ours,
    write_report,
)
from played_github import TAG, Handler, Played, expected_names, once

from builder.util.errors import ReleaseError
from builder.util.github.reply import GitHubError, TransientError


def test_a_release_holds_every_file_and_is_published_last(played: Played) -> None:
    played.run()
    assert played.state.names() == expected_names()
    assert played.release()["draft"] is False
    for name, content in played.contents().items():
        local = played.wheelhouse / name
        if local.exists():
            assert content == local.read_bytes()
    sums = played.contents()["SHA256SUMS"].decode()
    assert sums.splitlines() == sorted(
        (f"{hashlib.sha256(c).hexdigest()}  {n}" for n, c in played.contents().items() if n != "SHA256SUMS"),
        key=lambda line: line.split()[1],
    )
    published = [number for number, asked in enumerate(played.state.asked) if asked.startswith("PATCH")]
    assert published == [len(played.state.asked) - 1]
    assert played.state.uploaded[-1] == "SHA256SUMS"
    assert played.waits == []


def test_a_second_run_sends_nothing(played: Played) -> None:
    played.run()
    asked = len(played.state.asked)
    played.run()
    assert all(line.startswith("GET") for line in played.state.asked[asked:])


def test_a_run_that_died_is_completed_by_the_next(played: Played) -> None:
    def dead_after_four_uploads(handler: Handler, path: str) -> bool:
        if len(handler.state.uploaded) >= 4:
            handler.hang_up()
            return True
        return False

    played.state.failures = [dead_after_four_uploads]
    with pytest.raises(TransientError, match="no answer") as raised:
        played.run()
    assert "Run the same command again" in raised.value.remedy
    assert played.release()["draft"] is True
    assert played.waits == [1.0, 1.0, 2.0, 4.0, 8.0]  # the upload's try, then those to see what arrived
    played.state.failures = []
    played.run()
    assert played.state.names() == expected_names()
    assert sorted(played.state.uploaded) == expected_names()
    assert played.release()["draft"] is False


def test_a_half_asset_that_a_502_leaves_is_removed_and_sent_again(played: Played) -> None:
    def half(handler: Handler, path: str) -> bool:
        if not path.startswith("/uploads/") or handler.upload_name != NATIVE:
            return False
        release_id = next(iter(handler.state.releases))
        handler.state.add_asset(release_id, NATIVE, b"", state="starter", digest=None)
        handler.answer(502, {"message": "Bad Gateway"})
        return True

    played.state.failures = [once(half, 2)]
    played.run()
    assert played.waits == [1.0, 2.0]
    assert played.state.names() == expected_names()
    assert played.contents()[NATIVE] == (played.wheelhouse / NATIVE).read_bytes()


def test_a_half_asset_of_an_earlier_run_is_replaced_without_asking(played: Played) -> None:
    draft = played.state.add_release(tag_name=TAG, draft=True)
    played.state.add_asset(draft["id"], NATIVE, b"PK", state="starter", digest=None)
    played.run()
    assert played.release()["id"] == draft["id"]
    assert played.contents()[NATIVE] == (played.wheelhouse / NATIVE).read_bytes()


def test_an_upload_that_arrived_although_it_failed_is_not_sent_twice(played: Played) -> None:
    def arrives(handler: Handler, path: str) -> bool:
        if not path.startswith("/uploads/") or handler.upload_name != UNIVERSAL:
            return False
        handler.state.add_asset(next(iter(handler.state.releases)), UNIVERSAL, handler.body)
        handler.hang_up()
        return True

    played.state.failures = [once(arrives)]
    played.run()
    assert played.state.uploaded.count(UNIVERSAL) == 0
    assert played.state.names() == expected_names()


def test_a_draft_that_was_made_although_the_answer_was_lost_is_taken(played: Played) -> None:
    def lost(handler: Handler, path: str) -> bool:
        if handler.command != "POST" or not path.endswith("/releases"):
            return False
        handler.state.add_release(**json.loads(handler.body))
        handler.answer(504, {"message": "Gateway Timeout"})
        return True

    played.state.failures = [once(lost)]
    played.run()
    assert played.release()["draft"] is False


@pytest.mark.parametrize("times", [1, 99])
def test_an_upload_with_a_different_digest_never_stays(played: Played, times: int) -> None:
    def corrupt(handler: Handler, path: str) -> bool:
        if path.startswith("/uploads/") and handler.upload_name == NATIVE:
            handler.body = handler.body[:-1] + b"!"
        return False

    left = [times]

    def corrupt_so_often(handler: Handler, path: str) -> bool:
        if left[0] and path.startswith("/uploads/") and handler.upload_name == NATIVE:
            left[0] -= 1
            corrupt(handler, path)
        return False

    played.state.failures = [corrupt_so_often]
    if times == 1:
        played.run()
        assert played.contents()[NATIVE] == (played.wheelhouse / NATIVE).read_bytes()
        return
    with pytest.raises(ReleaseError, match=re.escape(NATIVE)):
        played.run()
    assert NATIVE not in played.state.names()
    assert played.release()["draft"] is True


def test_bytes_that_change_after_the_upload_stop_the_publication(played: Played) -> None:
    def swapped(handler: Handler, path: str) -> bool:
        if path.startswith("/uploads/") and handler.upload_name == "SHA256SUMS":
            for asset in handler.state.assets.values():
                if asset["name"] == UNIVERSAL:
                    asset["digest"] = "sha256:" + "0" * 64
        return False

    played.state.failures = [swapped]
    with pytest.raises(ReleaseError, match=f"a different SHA-256: {re.escape(UNIVERSAL)}"):
        played.run()
    assert played.release()["draft"] is True


def test_without_digests_the_bytes_are_downloaded_and_compared(played: Played) -> None:
    played.state.with_digest = False
    played.run()
    assert played.release()["draft"] is False
    number = next(key for key, asset in played.state.assets.items() if asset["name"] == NATIVE)
    played.state.content[number] = played.state.content[number][:-1] + b"!"
    with pytest.raises(ReleaseError, match=re.escape(NATIVE)):
        played.run()


def test_rate_limits_are_waited_for_as_long_as_they_ask(played: Played) -> None:
    def limited(handler: Handler, path: str) -> bool:
        handler.answer(429, {"message": "secondary rate limit"}, Retry_After="7")
        return True

    played.state.failures = [once(limited, 2)]
    played.run()
    assert played.waits == [7.0, 7.0]


def test_a_rate_limit_of_hours_is_not_waited_for(played: Played) -> None:
    def limited(handler: Handler, path: str) -> bool:
        handler.answer(403, {"message": "rate limit exceeded"}, Retry_After="9000")
        return True

    played.state.failures = [limited]
    with pytest.raises(TransientError, match="rate limit exceeded"):
        played.run()
    assert played.waits == []


def test_an_error_that_repeats_the_token_is_shown_without_it(played: Played) -> None:
    def talkative(handler: Handler, path: str) -> bool:
        handler.answer(400, {"message": f"bad header: {handler.headers['Authorization']}"})
        return True

    played.state.failures = [talkative]
    with pytest.raises(GitHubError, match=r"bad header: Bearer \*\*\*"):
        played.run()


def test_a_refused_token_says_what_to_do(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    with pytest.raises(GitHubError, match="Bad credentials") as raised:
        played.run()
    assert "GITHUB_TOKEN" in raised.value.remedy


def test_a_different_file_is_replaced_only_when_asked(played: Played) -> None:
    played.run()
    before = played.contents()
    make_ours(played.wheelhouse, NATIVE, code="changed = True\n")
    write_report(played.wheelhouse / NATIVE)
    with pytest.raises(ReleaseError, match="different SHA-256") as raised:
        played.run()
    assert NATIVE in raised.value.message
    assert "SHA256SUMS" in raised.value.message
    assert UNIVERSAL not in raised.value.message
    assert played.contents() == before
    played.run("--replace")
    assert played.contents()[NATIVE] == (played.wheelhouse / NATIVE).read_bytes()
    assert played.state.names() == expected_names()


def test_a_file_of_somebody_elses_is_left_alone_and_named(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = played.state.add_release(tag_name=TAG, draft=True)
    played.state.add_asset(draft["id"], "handmade.txt", b"mine")
    played.run()
    assert played.contents()["handmade.txt"] == b"mine"
    assert "handmade.txt" in capsys.readouterr().err


def test_releases_of_other_tags_are_never_touched(played: Played) -> None:
    others = [played.state.add_release(tag_name=f"v{number}", draft=number % 2 == 0) for number in range(8)]
    before = [dict(other) for other in others]
    played.run()
    assert others == before
    assert len(played.state.releases) == 9


def test_a_tag_that_is_not_there_is_not_made_by_accident(played: Played) -> None:
    played.state.tags.clear()
    with pytest.raises(ReleaseError, match="no tag"):
        played.run()
    assert played.state.releases == {}
    played.run("--target", "c" * 40)
    assert played.release()["target_commitish"] == "c" * 40


def test_no_netrc_replaces_the_token(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    played.run()
    assert played.release()["draft"] is False


@pytest.mark.parametrize("command", ["POST", "PATCH", "GET"])
def test_what_is_left_after_an_interruption_is_said(
    played: Played, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Wherever it comes: while the draft is made, while assets are looked at, while it is published."""
    # A shell's background job starts with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(handler: Handler, path: str) -> bool:
        if handler.command != command or not (played.state.releases or command == "POST"):
            return False
        os.kill(os.getpid(), signal.SIGINT)
        handler.hang_up()
        return True

    played.state.failures = [interrupted]
    try:
        with pytest.raises(KeyboardInterrupt):
            played.run()
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    if command == "POST":
        assert "A draft of v2.2.0-1 may have been made." in said
    else:
        assert "The release may not be complete. It is a draft, unless it was just published: " in said
        assert played.release()["html_url"] in said
    played.state.failures = []
    played.run()
    assert played.state.names() == expected_names()
    assert played.release()["draft"] is False


def test_a_published_release_that_is_not_complete_is_not_called_unpublished(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.run()
    for number, asset in list(played.state.assets.items()):
        if asset["name"] == NATIVE:
            del played.state.assets[number]

    def full(handler: Handler, path: str) -> bool:
        if not path.startswith("/uploads/"):
            return False
        handler.answer(400, {"message": "no space"})
        return True

    played.state.failures = [full]
    capsys.readouterr()
    with pytest.raises(ReleaseError, match="no space"):
        played.run()
    assert "The release may not be complete. It is published: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1/../../2"},
        {"id": None},
        {"tag_name": None},
        {"draft": "no"},
        {"draft": None},
        {"html_url": 1},
        {"upload_url": None},
        {"upload_url": "https://evil.invalid/uploads"},
        {"upload_url": "http://[::1"},
    ],
)
def test_a_release_of_another_form_is_one_error(played: Played, change: dict[str, Any]) -> None:
    played.state.add_release(tag_name=TAG, draft=True)

    def odd(handler: Handler, path: str) -> bool:
        if not path.endswith("/releases"):
            return False
        (made,) = handler.state.releases.values()
        handler.answer(200, [{**handler.shown(made), **change}])
        return True

    played.state.failures = [odd]
    with pytest.raises(GitHubError, match=r"a release: |no token goes there"):
        played.run()
    assert played.state.names() == []


@pytest.mark.parametrize("values", [None, 3, "x", {}, [3], [None], ["x"], [[]]])
def test_a_list_of_another_form_is_one_error(played: Played, values: Any) -> None:
    def odd(handler: Handler, path: str) -> bool:
        handler.answer(200, values)
        return True

    played.state.failures = [odd]
    with pytest.raises(GitHubError, match=r"without a list|not with JSON|is not a release"):
        played.run()
