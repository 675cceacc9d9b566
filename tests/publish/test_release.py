"""Making and completing a release, with failures in the middle."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.github import REPOSITORY, TOKEN, FakeGitHub, Request, serving_github
from fakes.index_wheels import INCOMPLETE, NATIVE, NATIVE_BASIC, UNIVERSAL, make_ours, write_report
from github.Requester import HTTPSRequestsConnectionClass

from builder.check import audit
from builder.publish import github_api, release
from builder.util.errors import AuditError, ReleaseError, UsageError
from builder.util.files import file_sha256

TAG = "v2.2.0-1"
WHEELS = (NATIVE, NATIVE_BASIC, UNIVERSAL)
NAMES = sorted(
    [f"{wheel}{suffix}" for wheel in WHEELS for suffix in ("", ".json")]
    + [f"{NATIVE}.smoketest.json", f"{NATIVE}.metadata", f"{UNIVERSAL}.metadata", "SHA256SUMS"]
)
Run = Callable[..., None]


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeGitHub]:
    for name in ("GH_TOKEN", "GITHUB_API_URL", "GITHUB_OUTPUT", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving_github(TAG) as server:
        yield server
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    wheels = make_ours(tmp_path / "wheelhouse", *WHEELS)
    write_report(wheels[0])
    return tmp_path / "wheelhouse"


@pytest.fixture
def run(github: FakeGitHub, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Release the wheelhouse, whose wheels hold no libraries to audit."""
    monkeypatch.setattr(audit, "main", lambda argv: 0)

    def run(*arguments: str) -> None:
        command = ["--wheelhouse", str(wheelhouse), "--tag", TAG, "--repository", REPOSITORY]
        assert release.main([*command, "--api-url", github.url, *arguments]) == 0

    return run


def only(github: FakeGitHub) -> dict[str, Any]:
    (made,) = github.releases.values()
    return made


def times(count: int, failure: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """A failure that happens so many times."""
    left = [count]

    def fails(request: Request) -> bool:
        if left[0] and failure(request):
            left[0] -= 1
            return True
        return False

    return fails


def hang_up(request: Request) -> bool:
    request.close_connection = True
    return True


def test_a_release_holds_every_file_and_is_published_last(
    github: FakeGitHub, run: Run, wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    run()
    files = github.files()
    assert sorted(files) == NAMES
    assert only(github)["draft"] is False
    for name, content in files.items():
        if (wheelhouse / name).exists():
            assert content == (wheelhouse / name).read_bytes()
    assert files["SHA256SUMS"].decode() == "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in NAMES if name != "SHA256SUMS"
    )
    assert [line for line in github.requests if line.startswith("PATCH")] == github.requests[-1:]
    assert (tmp_path / "output").read_text() == "published=2026-11-01T10:00:00+00:00\n"
    count = len(github.requests)
    run()
    assert all(line.startswith("GET") for line in github.requests[count:]), "a second run sends nothing"


def test_a_run_that_died_is_completed_by_the_next(
    github: FakeGitHub, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    github.failure = lambda request: len(github.uploads) >= 4 and hang_up(request)
    with pytest.raises(github_api.TransientError, match="does not answer"):
        run()
    assert f"The release of {TAG} may not be complete." in capsys.readouterr().err
    assert only(github)["draft"] is True
    github.failure = lambda request: False
    run()
    assert sorted(github.uploads) == NAMES
    assert only(github)["draft"] is False


def test_a_partial_asset_that_a_502_leaves_is_removed_and_sent_again(
    github: FakeGitHub, run: Run, wheelhouse: Path
) -> None:
    def partial(request: Request) -> bool:
        if request.upload_name != NATIVE:
            return False
        github.add_asset(only(github)["id"], NATIVE, b"", state="starter", digest=None)
        request.answer(502, {"message": "Bad Gateway"})
        return True

    github.failure = times(2, partial)
    run()
    assert sorted(github.files()) == NAMES
    assert github.files()[NATIVE] == (wheelhouse / NATIVE).read_bytes()


def test_what_was_made_although_the_answer_was_lost_is_not_made_twice(github: FakeGitHub, run: Run) -> None:
    def lost_draft(request: Request) -> bool:
        if (request.command, request.route) != ("POST", "/releases"):
            return False
        github.add_release(**json.loads(request.body))
        request.answer(504, {"message": "Gateway Timeout"})
        return True

    def lost_upload(request: Request) -> bool:
        if request.upload_name != UNIVERSAL:
            return False
        github.add_asset(only(github)["id"], UNIVERSAL, request.body)
        return hang_up(request)

    draft, upload = times(1, lost_draft), times(1, lost_upload)
    github.failure = lambda request: draft(request) or upload(request)
    run()
    assert UNIVERSAL not in github.uploads
    assert sorted(github.files()) == NAMES
    assert only(github)["draft"] is False


def test_an_upload_with_a_different_digest_never_stays(github: FakeGitHub, run: Run) -> None:
    def corrupt(request: Request) -> bool:
        if request.upload_name == NATIVE:
            request.body = request.body[:-1] + b"!"
        return False

    github.failure = corrupt
    with pytest.raises(ReleaseError, match=re.escape(NATIVE)):
        run()
    assert NATIVE not in github.files()
    assert only(github)["draft"] is True
    github.failure = lambda request: False
    run()
    assert sorted(github.files()) == NAMES
    assert only(github)["draft"] is False


def test_other_bytes_replace_published_ones_only_when_asked(
    github: FakeGitHub, run: Run, wheelhouse: Path
) -> None:
    run()
    before = github.files()
    make_ours(wheelhouse, NATIVE, code="changed = True\n")
    write_report(wheelhouse / NATIVE, headline="passed (121 pass)")
    with pytest.raises(ReleaseError, match="different SHA-256") as raised:
        run()
    assert NATIVE in raised.value.message
    assert UNIVERSAL not in raised.value.message
    assert github.files() == before
    run("--replace")
    assert github.files()[NATIVE] == (wheelhouse / NATIVE).read_bytes()
    assert sorted(github.files()) == NAMES
    assert "121 pass" in only(github)["body"]


def test_what_is_not_this_releases_is_left_alone(github: FakeGitHub, run: Run) -> None:
    others = [github.add_release(tag_name=f"v{number}", draft=number % 2 == 0) for number in range(4)]
    before = [dict(other) for other in others]
    draft = github.add_release(tag_name=TAG, draft=True)
    github.add_asset(draft["id"], "handmade.txt", b"mine")
    run()
    assert [github.releases[other["id"]] for other in others] == before
    assert sorted(github.files()) == sorted([*NAMES, "handmade.txt"])


@pytest.mark.parametrize(
    ("published", "refused"),
    [
        (UNIVERSAL, True),
        (UNIVERSAL.replace("py3-none", "cp310-abi3"), True),  # pip would prefer one of the two for ever
        (UNIVERSAL.replace("universal.2", "universal"), False),
        (UNIVERSAL.replace("x86_64", "aarch64"), False),
        (NATIVE.replace("cp312", "cp313"), False),
    ],
)
def test_a_version_that_another_release_has_never_changes(
    github: FakeGitHub, run: Run, wheelhouse: Path, published: str, refused: bool
) -> None:
    earlier = github.add_release(tag_name="v2.2.0-0", draft=False)
    asset = github.add_asset(earlier["id"], published, b"other")
    if refused:
        for arguments in ([], ["--replace"], ["--dry-run"]):
            with pytest.raises(ReleaseError, match=f"other content for this version: {re.escape(published)}"):
                run(*arguments)
        assert len(github.releases) == 1
        asset["digest"] = f"sha256:{file_sha256(wheelhouse / UNIVERSAL)}"
    run()
    assert [made["draft"] for made in github.releases.values()] == [False, False]


def test_a_missing_tag_is_not_made_by_accident(github: FakeGitHub, run: Run) -> None:
    github.tags.clear()
    for arguments in ([], ["--target="]):
        with pytest.raises(ReleaseError, match="no tag"):
            run(*arguments)
    assert github.releases == {}
    run("--target", "c" * 40)
    assert only(github)["target_commitish"] == "c" * 40


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"message": "Bad credentials"}, "another one in GITHUB_TOKEN"),
        (404, {"message": "Not Found"}, "Check the repository's name"),
        (200, b"<html>Please log in</html>", "Check that --api-url"),
    ],
)
def test_an_answer_that_is_no_use_is_one_error(
    github: FakeGitHub, run: Run, status: int, body: object, message: str
) -> None:
    def answer(request: Request) -> bool:
        request.answer(status, body)
        return True

    github.failure = answer
    with pytest.raises(ReleaseError) as raised:
        run()
    assert message in raised.value.remedy


def test_what_should_not_be_published_is_refused_all_at_once(
    github: FakeGitHub, run: Run, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ours(wheelhouse, INCOMPLETE)
    make_ours(wheelhouse, UNIVERSAL, verified=False)
    write_report(wheelhouse / NATIVE, exit_code=1, headline="FAILED (1 FAIL)")
    with pytest.raises(ReleaseError) as raised:
        run()
    for part in (f"{INCOMPLETE}: it holds only 8.9", f"{UNIVERSAL}: its source is not verified", "FAILED"):
        assert part in raised.value.message
    flags = re.findall(r"--[a-z-]+", raised.value.remedy)
    assert sorted(flags) == ["--allow-failed-smoketest", "--allow-incomplete", "--allow-unverified"]
    for flag in flags:
        with pytest.raises(ReleaseError):
            run(flag)
    monkeypatch.setattr(audit, "main", lambda argv: 14)
    with pytest.raises(AuditError):
        run(*flags)
    assert github.requests == []
    monkeypatch.setattr(audit, "main", lambda argv: 0)
    run(*flags)
    assert "**not verified**" in only(github)["body"]


def test_a_dry_run_prints_steps_and_notes_and_changes_nothing(
    github: FakeGitHub, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--dry-run")
    assert all(line.startswith("GET") for line in github.requests)
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(UsageError, match="GH_TOKEN"):
        run()
    count = len(github.requests)
    run("--dry-run")
    assert len(github.requests) == count
    printed = capsys.readouterr().out
    for name in NAMES:
        assert printed.count(f"upload {name}\n") == 2
    assert printed.count("create a draft") == printed.count("## Smoke tests") == 2
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    run()
    capsys.readouterr()
    run("--dry-run")
    steps = capsys.readouterr().out.partition("Notes:")[0]
    assert "upload" not in steps
    assert f"keep {NATIVE}\n" in steps


def test_the_notes_say_what_was_built_patched_and_tested(
    github: FakeGitHub, run: Run, wheelhouse: Path
) -> None:
    make_ours(wheelhouse, UNIVERSAL, summary="a | b\n`c` <img src=x>")
    run("--index-url", "https://someone.example/wheels")
    notes = only(github)["body"]
    for line in (
        f"| `{NATIVE}` | passed | NVIDIA H100, torch 2.11.0+cu130 | passed (120 pass) |",
        f"| `{UNIVERSAL}` | not run |  |  |",
        r"- `0001-build.toml`: a \| b \`c\` \<img src=x\>",
        f"archive/refs/tags/v2.2.0.tar.gz, SHA-256 `{'d' * 64}`",
        "| cp312-cu130 | 2.11.0 | 13.0.88 | 14.2.1 |",
        '"sageattention==2.2.0" --extra-index-url https://someone.example/wheels/cu130/',
        f"--against https://github.com/{REPOSITORY}/releases/download/{TAG}/FILE.whl",
    ):
        assert notes.count(line) == 1


def test_a_token_is_sent_over_https_only(github: FakeGitHub, run: Run) -> None:
    with pytest.raises(UsageError, match="sent over https only"):
        run("--api-url", "http://api.example.invalid")


def test_uploads_have_a_timeout_at_another_host_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub takes assets at `uploads.github.com`."""
    timeouts = []

    def respond(connection: HTTPSRequestsConnectionClass) -> None:
        timeouts.append((connection.host, connection.timeout))
        raise KeyboardInterrupt

    monkeypatch.setattr(HTTPSRequestsConnectionClass, "getresponse", respond)
    requester = github_api.connect(github_api.API_URL, TOKEN).requester
    with pytest.raises(KeyboardInterrupt):
        requester.requestMemoryBlobAndCheck(
            "POST", "https://uploads.github.com/a", {}, {"Content-Type": "text/plain"}, io.BytesIO()
        )
    assert timeouts == [("uploads.github.com", 120)]
