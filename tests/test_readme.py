"""What README and CONTRIBUTING say is there: commands, options, files, exit codes, patches."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from builder.check.audit_checks import CHECKS
from builder.smoketest.outcome import ExitCode
from builder.target.options import build_parser
from builder.target.targets import TARGETS_DIR, TOOLCHAINS, load_target
from builder.util import errors
from builder.util.errors import BuilderError

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The README's text under a heading, up to the next of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(title)}\n", README, re.MULTILINE)
    assert match, f"the README has no section {title!r}"
    rest = README[match.end() :]
    end = re.search(
        rf"^#{{1,{len(match[1])}}} ", FENCE.sub(lambda code: "x" * len(code[0]), rest), re.MULTILINE
    )
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of a section's tables, without headings."""
    found = []
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


@cache
def sessions() -> frozenset[str]:
    command = [sys.executable, "-m", "nox", "-l", "-f", str(ROOT / "noxfile.py")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return frozenset(re.findall(r"^[*-] (\S+) ->", listed, re.MULTILINE))


def nox_commands(name: str) -> list[list[str]]:
    """Every `nox -s ...` of a document, in code blocks and in the text, from the session on."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *codes(text)]:
        for part in line.partition(" #")[0].split("&&") if "nox -s " in line else ():
            if "nox -s " in part:
                found.append(shlex.split(part.partition("nox -s ")[2]))
    return found


def split_command(command: list[str]) -> tuple[list[str], list[str]]:
    """Sessions, and what follows `--`."""
    at = command.index("--") if "--" in command else len(command)
    return command[:at], command[at + 1 :]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_sessions_exist(name: str) -> None:
    commands = nox_commands(name)
    assert len(commands) > 8
    named = {session for command in commands for session in split_command(command)[0]}
    assert named <= sessions()


def test_all_sessions_are_in_the_table() -> None:
    targets = {path.stem for path in (ROOT / "targets").glob("*.toml")}
    written: set[str] = set()
    for cells in rows(section("Build"))[1:]:
        for session in codes(cells[0]):
            written |= (
                {session.replace("TARGET", target) for target in targets}
                if "TARGET" in session
                else {session}
            )
    assert written == sessions()
    assert targets == {name for name in codes(section("Build")) if re.fullmatch(r"(?:cp|abi)\d+-cu\d+", name)}


def options_of(session: str) -> set[str]:
    """The options that a session takes, by its own --help."""
    command, _, target = session.partition("-")
    arguments = [command, target] if command in {"build", "reproduce"} else [command]
    shown = subprocess.run(
        [sys.executable, "-m", "builder", *arguments, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown.stdout))


def test_options_of_commands_exist() -> None:
    used: dict[str, set[str]] = {}
    for name in ("README.md", "CONTRIBUTING.md"):
        for command in nox_commands(name):
            named, arguments = split_command(command)
            options = {argument for argument in arguments if argument.startswith("--")}
            if options and named[0] not in {"tests", "e2e"}:
                kind = named[0].partition("-")[0]
                key = "build-cp312-cu130" if kind in {"build", "reproduce"} else kind
                used.setdefault(key, set()).update(options)
    assert {"build-cp312-cu130", "smoketest", "release", "index"} <= set(used)
    for session, options in used.items():
        assert options - {"--help"} <= options_of(session), session


def test_build_options_are_all_in_the_table() -> None:
    there = {name for action in build_parser()._actions for name in action.option_strings}
    written = {codes(cells[0])[0].split()[0] for cells in rows(section("Options"))[1:]}
    assert written == there - {"-h", "--help"}


def test_default_of_the_cache_size() -> None:
    (row,) = (cells for cells in rows(section("Options")) if "--cache-size" in cells[0])
    assert codes(row[1]) == [build_parser().get_default("cache_size")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_somewhere(name: str) -> None:
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert links or name == "CHANGELOG.md"
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / path) if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(
                r"^#+ (.+)$", FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE
            )
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


def error_rows() -> list[list[str]]:
    return [cells for cells in rows(section("While building")) if cells[0].isdigit() and cells[1]]


def test_every_error_is_in_the_troubleshooting_table() -> None:
    there = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, BuilderError) and kind is not BuilderError
    }
    written = {codes(cells[1])[0]: int(cells[0]) for cells in error_rows()}
    assert written == there


def test_messages_of_the_troubleshooting_table_are_the_code_s() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "builder").rglob("*.py")))
    for cells in error_rows():
        messages = codes(cells[2])
        assert messages, cells
        for message in messages:
            # Names in capitals stand for what a message fills in.
            for part in re.split(r"[A-Z]{3,}\S*|\(", message):
                assert part.strip(" :") in source, message


@pytest.mark.parametrize(
    "message",
    [
        "sageattn() knows no kernel for this GPU",
        "all tensors must be on the same CUDA device",
        "too many heads or batches, or too long",
        "the kernels reach 4294967296",
        "cuTensorMapEncodeTiled refuses a tensor of",
        "this build has no ",
    ],
)
def test_run_time_messages_are_the_patches(message: str) -> None:
    series = [path for path in (ROOT / "patches").rglob("*") if path.is_file()]
    assert any(message in path.read_text(encoding="utf-8") for path in series)
    assert any(message in code for code in codes(section("While installing and running")))


def test_smoke_test_exit_codes_are_in_the_table() -> None:
    written = {int(cells[0]) for cells in rows(section("Smoke test")) if cells[0].isdigit()}
    assert written == {code.value for code in ExitCode}


def test_audit_checks_are_in_the_table() -> None:
    written = [check for cells in rows(section("Audit"))[1:] for check in codes(cells[0])]
    assert sorted(written) == sorted(CHECKS)


def test_every_patch_is_in_the_table() -> None:
    patches = ROOT / "patches" / "v2.2.0"
    lines = [line.partition("#")[0].strip() for line in (patches / "series").read_text().splitlines()]
    written = [
        re.search(r"\(patches/v2\.2\.0/(\S+)\)", cells[3]) for cells in rows(section("What is fixed"))[1:]
    ]
    assert [match[1] for match in written if match] == [name for name in lines if name]


def test_modules_of_the_way_of_a_wheel_are_all_linked() -> None:
    """A reader finds each module by the way of a wheel; those that serve several steps are not on it."""
    serving = {
        "__init__", "__main__", "_toml", "errors", "log", "digest", "components", "project", "upstream",
        "elf", "fatbin", "wheelfile", "audit_checks", "catalogue", "page", "github", "notes", "outdated",
        "reproduce",
    }  # fmt: skip
    linked = set(re.findall(r"\(builder/(\w+)\.py\)", section("How a wheel goes")))
    assert linked == {path.stem for path in (ROOT / "builder").glob("*.py")} - serving


def test_the_target_to_add_is_a_good_one(tmp_path: Path) -> None:
    text = section("Add a target")
    (name,) = {Path(code).name for code in codes(text) if code.endswith(".toml")}
    (block,) = (block for language, block in FENCE.findall(text) if language == "toml")
    shutil.copytree(TARGETS_DIR / TOOLCHAINS, tmp_path / TOOLCHAINS)
    (tmp_path / name).write_text(block)
    assert f"{load_target(tmp_path / name).name}.toml" == name


def test_ci_runs_the_readme_s_test_command() -> None:
    after = README.partition("<!-- test command -->\n")[2]
    match = FENCE.match(after)
    assert match, "no code block stands under the mark"
    printed = subprocess.run([ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True)
    assert printed.stdout == match[2]
    (command,) = [
        shlex.split(line.partition("nox -s ")[2]) for line in match[2].splitlines() if "nox -s " in line
    ]
    assert command == ["lint", "types", "tests", "e2e"]


@pytest.mark.parametrize(
    ("readme", "good"),
    [
        ("<!-- test command -->\n```sh\ntrue\n```\n", True),
        ("<!-- test command -->\n\n```\ntrue\n```\n", True),
        ("```sh\ntrue\n```\n", False),
        ("<!-- test command -->\n```sh\n```\n", False),
        ("<!-- test command -->\nText.\n```sh\ntrue\n```\n", False),
        ("<!-- test command -->\n```sh\ntrue\n", False),
        ("<!-- test command -->\n```sh\ntrue\n```\n<!-- test command -->\n```sh\nfalse\n```\n", False),
    ],
)
def test_ci_takes_the_one_marked_block(tmp_path: Path, readme: str, good: bool) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(readme)
    command = [str(tmp_path / ".ci" / "run"), "--print"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is good
    assert done.stdout == ("true\n" if good else "")


def test_the_licence_is_the_whole_one() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
