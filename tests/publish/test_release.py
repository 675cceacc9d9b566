"""Releases: against a server on this machine that plays the API, with failures in the middle."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from made_up_wheels import (
    INCOMPLETE,
    NATIVE,
    NATIVE_BASIC,
    UNIVERSAL,
    make_ours,
    make_wheel,
    write_record,
    write_report,
)

from builder.publish import catalogue, release
from builder.publish.notes import release_notes
from builder.util.errors import AuditError, BuilderError, ReleaseError, UsageError
from builder.util.github import GitHubError, TransientError

TOKEN = "ghp_thisTokenMustNeverBeSeen0123456789"
REPOSITORY = "someone/wheels"
TAG = "v2.2.0-1"

FailureHook = Callable[["Handler", str], bool]


@dataclass
class State:
    """What the played API holds, and what was asked of it."""

    tags: set[str] = field(default_factory=lambda: {TAG})
    releases: dict[int, dict[str, Any]] = field(default_factory=dict)
    assets: dict[int, dict[str, Any]] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    failures: list[FailureHook] = field(default_factory=list)
    page_size: int = 3
    with_digest: bool = True
    next_id: int = 1

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def names(self) -> list[str]:
        return sorted(str(asset["name"]) for asset in self.assets.values())

    def add_release(self, **values: Any) -> dict[str, Any]:
        number = self.new_id()
        made = {"id": number, "html_url": f"https://example.invalid/releases/{number}", "body": "", **values}
        self.releases[number] = made
        return made

    def add_asset(self, release_id: int, name: str, content: bytes, **values: Any) -> dict[str, Any]:
        number = self.new_id()
        asset = {
            "id": number,
            "release": release_id,
            "name": name,
            "size": len(content),
            "state": "uploaded",
            "digest": "sha256:" + hashlib.sha256(content).hexdigest() if self.with_digest else None,
            **values,
        }
        self.assets[number] = asset
        self.content[number] = content
        return asset


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to the played API."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other (Nagle's algorithm)
    state: State
    body: bytes = b""

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = urlsplit(self.path).path
        self.state.asked.append(f"{self.command} {path}")
        for fails in list(self.state.failures):
            if fails(self, path):
                return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"message": "Bad credentials"})
            return
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                function(self, *match.groups())
                return
        self.answer(404, {"message": "Not Found"})

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def answer(self, status: int, values: Any = None, **headers: str) -> None:
        content = b"" if values is None else json.dumps(values).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def page(self, items: list[dict[str, Any]]) -> None:
        number = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        size = self.state.page_size
        headers = {}
        if number * size < len(items):
            headers["Link"] = f'<{self.root}{urlsplit(self.path).path}?page={number + 1}>; rel="next"'
        self.answer(200, items[(number - 1) * size : number * size], **headers)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    @property
    def upload_name(self) -> str:
        return parse_qs(urlsplit(self.path).query)["name"][0]

    def shown(self, made: dict[str, Any]) -> dict[str, Any]:
        upload = f"{self.root}/uploads/{made['id']}/assets{{?name,label}}"
        return {**made, "upload_url": upload}

    def list_releases(self) -> None:
        self.page([self.shown(made) for made in self.state.releases.values()])

    def find_tag(self, name: str) -> None:
        self.answer(200, {}) if name in self.state.tags else self.answer(404, {"message": "Not Found"})

    def create(self) -> None:
        self.answer(201, self.shown(self.state.add_release(**json.loads(self.body))))

    def change(self, number: str) -> None:
        self.state.releases[int(number)].update(json.loads(self.body))
        self.answer(200, self.shown(self.state.releases[int(number)]))

    def list_assets(self, number: str) -> None:
        self.page([asset for asset in self.state.assets.values() if asset["release"] == int(number)])

    def upload(self, number: str) -> None:
        if self.upload_name in self.state.names():
            self.answer(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]})
            return
        self.state.uploaded.append(self.upload_name)
        self.answer(201, self.state.add_asset(int(number), self.upload_name, self.body))

    def remove(self, number: str) -> None:
        gone = self.state.assets.pop(int(number), None)
        self.answer(204 if gone else 404)

    def download(self, number: str) -> None:
        content = self.state.content[int(number)]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", f"/repos/{REPOSITORY}/releases", Handler.list_releases),
    ("POST", f"/repos/{REPOSITORY}/releases", Handler.create),
    ("PATCH", rf"/repos/{REPOSITORY}/releases/(\d+)", Handler.change),
    ("GET", f"/repos/{REPOSITORY}/git/ref/tags/(.+)", Handler.find_tag),
    ("GET", rf"/repos/{REPOSITORY}/releases/(\d+)/assets", Handler.list_assets),
    ("POST", r"/uploads/(\d+)/assets", Handler.upload),
    ("DELETE", rf"/repos/{REPOSITORY}/releases/assets/(\d+)", Handler.remove),
    ("GET", rf"/repos/{REPOSITORY}/releases/assets/(\d+)", Handler.download),
]


class Played:
    """The played API, a wheelhouse, and a way to release it."""

    def __init__(self, url: str, state: State, wheelhouse: Path) -> None:
        self.url, self.state, self.wheelhouse = url, state, wheelhouse
        self.waits: list[float] = []
        self.errors: list[BuilderError] = []
        self.audited: list[str] = []

    def run(self, *arguments: str) -> None:
        given = ["--wheelhouse", str(self.wheelhouse), "--tag", TAG, "--repository", REPOSITORY]
        given += ["--api-url", self.url, *arguments]

        def audit(paths: Any) -> int:
            self.audited += [path.name for path in paths]
            return 0

        try:
            assert release.main(given, audit=audit, sleep=self.waits.append) == 0
        except BuilderError as error:
            self.errors.append(error)
            raise

    def release(self) -> dict[str, Any]:
        (made,) = self.state.releases.values()
        return made

    def contents(self) -> dict[str, bytes]:
        return {asset["name"]: self.state.content[number] for number, asset in self.state.assets.items()}


@pytest.fixture
def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Played]:
    """After each test the token must not have been seen: in no output, and in no error."""
    for name in ("GH_TOKEN", "GITHUB_API_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wheels = make_ours(tmp_path / "wheelhouse", NATIVE, NATIVE_BASIC, UNIVERSAL)
    write_report(wheels[0])
    state = State()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Playing", (Handler,), {"state": state}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    fixture = Played(f"http://127.0.0.1:{server.server_port}", state, tmp_path / "wheelhouse")
    yield fixture
    server.shutdown()
    server.server_close()
    printed = capsys.readouterr()
    seen = [printed.out, printed.err]
    for error in fixture.errors:
        seen += [repr(error), str(error), *traceback.format_exception(error)]
        seen += [repr(vars(error)), repr(error.__cause__)]
    assert not [text for text in seen if TOKEN in text]


def expected_names() -> list[str]:
    names = [f"{wheel}{suffix}" for wheel in (NATIVE, NATIVE_BASIC, UNIVERSAL) for suffix in ("", ".json")]
    return sorted(
        [*names, f"{NATIVE}.smoketest.json", f"{NATIVE}.metadata", f"{UNIVERSAL}.metadata", "SHA256SUMS"]
    )


def once(hook: FailureHook, times: int = 1) -> FailureHook:
    """A failure that happens so many times."""
    left = [times]

    def fails(handler: Handler, path: str) -> bool:
        if left[0] and hook(handler, path):
            left[0] -= 1
            return True
        return False

    return fails


# --- all goes well --------------------------------------------------------------------------------


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


def test_notes_say_what_was_built_patched_and_tested(played: Played) -> None:
    played.run("--index-url", "https://someone.example/wheels")
    notes = played.release()["body"]
    for wheel in (NATIVE, NATIVE_BASIC, UNIVERSAL):
        assert f"| `{wheel}` |" in notes
    assert f"| `{NATIVE}` | passed | NVIDIA H100, torch 2.11.0+cu130 | passed (120 pass) |" in notes
    assert f"| `{UNIVERSAL}` | not run |" in notes
    assert "- `0001-hopper.patch`: Call the Hopper kernel, not its fake" in notes
    assert (
        f"https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz, SHA-256 `{'d' * 64}`"
        in notes
    )
    assert "| cp312-cu130 | 2.11.0+cu130 | 13.0.88 | 14.2.1 |" in notes
    assert '"sageattention==2.2.0" --extra-index-url https://someone.example/wheels/cu130/' in notes
    assert notes.count("0001-hopper") == 1


def test_what_a_record_says_stays_in_its_table_cell(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    write_report(wheel, headline="passed | 3\n| evil |")
    notes = release_notes([catalogue.read_wheel(wheel)], repository=REPOSITORY, tag=TAG)
    (row,) = [line for line in notes.splitlines() if "evil" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


# --- failures in the middle -----------------------------------------------------------------------


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
def test_other_bytes_that_arrive_never_stay(played: Played, times: int) -> None:
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
    with pytest.raises(ReleaseError, match=f"other bytes: {re.escape(UNIVERSAL)}"):
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


# --- what is not replaced, and what is not released -------------------------------------------------


def test_other_bytes_are_replaced_only_when_told(played: Played) -> None:
    played.run()
    before = played.contents()
    make_wheel(played.wheelhouse, NATIVE, ["torch==2.11.*"], "==3.12.*", code="changed = True\n")
    write_record(played.wheelhouse / NATIVE)
    write_report(played.wheelhouse / NATIVE)
    with pytest.raises(ReleaseError, match="other bytes") as raised:
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


def test_what_should_not_be_published_is_refused_all_at_once(played: Played) -> None:
    make_ours(played.wheelhouse, INCOMPLETE, complete=False, architectures=["8.9"])
    write_record(
        played.wheelhouse / UNIVERSAL, source={"kind": "directory", "location": "fork", "verified": False}
    )
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


def test_a_file_of_two_gibibytes_is_an_error_that_names_it(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    report = write_report(wheel)
    known = catalogue.read_wheel(wheel)
    with report.open("r+b") as stream:
        stream.truncate(2 * 1024**3)
    if report.stat().st_blocks * 512 > 10**9:
        pytest.skip("this file system has no sparse files")
    with pytest.raises(ReleaseError, match=re.escape(f"{report.name} (2147483648 bytes)")):
        release.gather([known])


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
    with pytest.raises(UsageError, match="no repository"):
        played.run("--repository", "nonsense")


def test_no_netrc_replaces_the_token(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    played.run()
    assert played.release()["draft"] is False


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
