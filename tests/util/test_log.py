"""What is printed, and where: steps fold under GitHub Actions, and are headings elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from builder.util.errors import DownloadError
from builder.util.files import ROOT
from builder.util.log import fail, public_address, say, step, warn, without_secrets

CODE = """
from builder.util.log import fail, say, step, warn
with step("Repairing"): say("  half way")
warn("careful")
fail("no")
"""


def printed(actions: str) -> tuple[str, str]:
    env = {"GITHUB_ACTIONS": actions, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, check=True, capture_output=True, text=True)
    return re.sub(r"\d+\.\d", "0.0", done.stdout), done.stderr


def test_on_a_terminal_a_step_is_a_heading() -> None:
    assert printed("") == ("\nRepairing...\n  half way\n  done in 0.0 s\n", "warning: careful\nerror: no\n")


def test_on_github_actions_a_step_folds_and_warnings_are_marked() -> None:
    assert printed("true") == (
        "::group::Repairing\n  half way\n  done in 0.0 s\n::endgroup::\n",
        "::warning::careful\n::error::no\n",
    )


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://example.org/a.tar.gz", "https://example.org/a.tar.gz"),
        ("https://me:secret@example.org:8080/a.zip?token=secret#secret", "https://example.org:8080/a.zip"),
        ("https://me:a@secret@example.org/@scope/a.tgz", "https://example.org/@scope/a.tgz"),
        ("http://me:se/cret@example.org/x", "http://***"),
        ("http://me:secret?@example.org/x", "http://***"),
        ("http://me:se'cret@example.org/x", "http://example.org/x"),
    ],
)
def test_the_public_part_of_an_address(address: str, public: str) -> None:
    assert public_address(address) == public
    assert without_secrets(f"see {address}, then go on") == f"see {public}, then go on"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("(the target's is https://example.org/whl).", "(the target's is https://example.org/whl)."),
        ("'git+https://secret@example.org/a' and b", "'git+https://example.org/a' and b"),
    ],
)
def test_addresses_in_a_text(text: str, public: str) -> None:
    assert without_secrets(text) == public


def test_nothing_that_is_printed_or_raised_contains_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    text = "http://me:secret@x/a?secret failed."
    for function in (say, warn, fail):
        function(text)
    with step(text):
        pass
    error = DownloadError(text, f"Try {text}")
    printed = "".join([*capsys.readouterr(), str(error), *error.args])
    assert "secret" not in printed
    assert printed.count("http://x/a failed.") == 7


def test_a_step_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), step("Repairing"):
        raise ValueError("broken")
    assert re.search(r"  failed in \d+\.\d s\n$", capsys.readouterr().out)
