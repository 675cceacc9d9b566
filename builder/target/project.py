"""What this project calls itself, in one place, and which commit of it is at work.

`project.toml` beside this file says where the project lives. A fork need not edit it: while its `url` is
empty, the address is that of the repository that GitHub Actions runs for, or of git's remote `origin`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.util.errors import UsageError
from builder.util.paths import ROOT
from builder.util.toml import tomllib

PROJECT_FILE = Path(__file__).with_name("project.toml")

_GITHUB_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_HTTPS_REMOTE = re.compile(r"https://(?:[^@/\s]*@)?(?P<place>[\w.-]+/\S+?)(?:\.git)?/?")
_SSH_REMOTE = re.compile(r"(?:ssh://)?[\w.-]+@(?P<host>[\w.-]+)[:/](?!\d+/)(?P<path>\S+?)(?:\.git)?/?")
_ADDRESS = re.compile(r"https://[\w.-]+/\S+")


@dataclass(frozen=True)
class Project:
    """This project.

    Attributes:
        name: What it calls itself.
        url: Its address; empty where none is known.
        revision: The git commit at work, with `+changes` where files differ from it; empty without git.
    """

    name: str
    url: str
    revision: str


def load_project(environ: Mapping[str, str], root: Path = ROOT, file: Path = PROJECT_FILE) -> Project:
    """Read the project's name, address and revision.

    Args:
        environ: `GITHUB_REPOSITORY` and `GITHUB_SERVER_URL` count, as GitHub Actions sets them.
        root: The checkout.
        file: The TOML file with `name` and `url`.

    Raises:
        UsageError: The file is wrong, or `GITHUB_REPOSITORY` is no OWNER/NAME.
    """
    values = _read(file)
    url = (
        values["url"]
        or _from_actions(environ)
        or address_of_remote(_git(root, "remote", "get-url", "origin"))
    )
    return Project(values["name"], url, _revision(root))


def address_of_remote(remote: str) -> str:
    """The page of a git remote, without user name, password or `.git`; empty where it is no web address.

    `git@github.com:owner/name.git` and `https://token@github.com/owner/name` are both
    `https://github.com/owner/name`.
    """
    if match := _HTTPS_REMOTE.fullmatch(remote):
        return f"https://{match['place']}"
    if match := _SSH_REMOTE.fullmatch(remote):
        return f"https://{match['host']}/{match['path']}"
    return ""


def _read(file: Path) -> dict[str, str]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: can't be read: {error}.") from error
    for key in ("name", "url"):
        if not isinstance(table.get(key), str):
            raise UsageError(f"{file}: {key}: expected a string.")
    if table["url"] and _ADDRESS.fullmatch(table["url"]) is None:
        raise UsageError(
            f"{file}: url: {table['url']!r} is no https address.", "Leave it empty, or put it right."
        )
    return {"name": table["name"], "url": table["url"].rstrip("/")}


def _from_actions(environ: Mapping[str, str]) -> str:
    repository = environ.get("GITHUB_REPOSITORY", "")
    if not repository:
        return ""
    if _GITHUB_REPOSITORY.fullmatch(repository) is None:
        raise UsageError(f"GITHUB_REPOSITORY={repository!r} is not OWNER/NAME.")
    return f"{environ.get('GITHUB_SERVER_URL') or 'https://github.com'}/{repository}"


def _revision(root: Path) -> str:
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return ""
    # Only what goes into a build counts: a wheel in the wheelhouse changes nothing.
    changed = _git(root, "status", "--porcelain", "--", "builder", "patches", "targets")
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
