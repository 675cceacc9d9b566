"""The release command: what it refuses, and what it says beforehand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_wheels import (
    INCOMPLETE,
    NATIVE,
    NATIVE_BASIC,
    UNIVERSAL,
    UNVERIFIED,
    make_ours,
    write_report,
)
from played_github import REPOSITORY, TAG, TOKEN, Played, expected_names

from builder.publish import release
from builder.util.errors import AuditError, ReleaseError, UsageError


def test_what_should_not_be_published_is_refused_all_at_once(played: Played) -> None:
    make_ours(played.wheelhouse, INCOMPLETE, complete=False, architectures=["8.9"])
    make_ours(played.wheelhouse, UNIVERSAL, source=UNVERIFIED)
    (played.wheelhouse / f"{NATIVE_BASIC}.json").unlink()
    write_report(played.wheelhouse / NATIVE, exit_code=1, headline="FAILED (1 FAIL)")
    with pytest.raises(ReleaseError) as raised:
        played.run()
    text = raised.value.message
    for part in (
        INCOMPLETE,
        "directory fork",
        f"{NATIVE_BASIC}: its source is not verified: it has no record",
        "FAILED",
    ):
        assert part in text
    assert (played.state.asked, played.audited) == ([], [])
    flags = re.findall(r"--[a-z-]+", raised.value.remedy)
    assert sorted(flags) == ["--allow-failed-smoketest", "--allow-incomplete", "--allow-unverified"]
    for flag in flags:
        with pytest.raises(ReleaseError):
            played.run(flag)
    played.run(*flags)
    assert played.release()["draft"] is False
    assert "**not verified**" in played.release()["body"]


def test_every_wheel_is_audited_and_one_fault_stops_all(played: Played) -> None:
    played.run("--dry-run")
    assert sorted(played.audited) == sorted([NATIVE, NATIVE_BASIC, UNIVERSAL])
    arguments = ["--wheelhouse", str(played.wheelhouse), "--tag", TAG, "--repository", REPOSITORY]
    with pytest.raises(AuditError):
        release.main([*arguments, "--api-url", played.url], audit=lambda paths: 14)
    assert [line for line in played.state.asked if not line.startswith("GET")] == []


def test_a_dry_run_prints_steps_and_notes_and_changes_nothing(
    played: Played, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played.run("--dry-run")
    assert [line for line in played.state.asked if not line.startswith("GET")] == []
    printed = capsys.readouterr().out
    for name in expected_names():
        assert f"upload {name}\n" in printed
    assert "create a draft" in printed
    assert "publish" in printed
    assert "## Smoke tests" in printed
    monkeypatch.delenv("GITHUB_TOKEN")
    asked = len(played.state.asked)
    played.run("--dry-run")
    assert len(played.state.asked) == asked
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    played.run()
    capsys.readouterr()
    played.run("--dry-run")
    printed = capsys.readouterr().out
    assert "upload" not in printed.partition("Notes:")[0]
    assert f"keep {NATIVE}\n" in printed


def test_without_a_token_or_a_repository_it_says_what_is_missing(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(UsageError, match="GH_TOKEN"):
        played.run()
    with pytest.raises(UsageError, match="'nonsense' is not a repository"):
        played.run("--repository", "nonsense")


@pytest.mark.parametrize("option", ["--tag", "--target"])
@pytest.mark.parametrize(
    "value", ["", "..", "a..b", "a//b", "/a", "a/", "a b", "-a", "a\n", "a?b", "a#b", "ä", "a" * 201]
)
def test_what_can_t_be_a_tag_or_commit_is_refused(played: Played, option: str, value: str) -> None:
    """An empty --target would make the tag wherever the default branch is."""
    with pytest.raises(UsageError, match=f"{option}: .* is not the name of a tag, branch or commit"):
        played.run(f"{option}={value}")
    assert played.state.asked == []


def test_what_is_missing_is_said_before_the_audit(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GITHUB_TOKEN": "a b", "GITHUB_API_URL": "http://api.example.invalid"}.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            with pytest.raises(UsageError):
                release.main(
                    ["--tag", TAG, "--repository", REPOSITORY, "--wheelhouse", str(played.wheelhouse)]
                )
    assert played.audited == []


def test_the_command_refuses_wheels_that_fail_the_projects_audit(played: Played) -> None:
    """The made-up wheels hold no compiled code, so the real audit can't find them good."""
    pytest.importorskip("builder.check.audit", reason="the audit's module is not there")
    command = [
        sys.executable,
        "-m",
        "builder",
        "release",
        "--wheelhouse",
        str(played.wheelhouse),
        "--tag",
        TAG,
    ]
    command += ["--repository", REPOSITORY, "--api-url", played.url]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == AuditError.exit_code
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert played.state.asked == []
