"""The project's own name and address, and the commit of it that is used.

`project.toml` beside this file has the first two. A fork need not edit it: if its `url` is empty, the address
is that of the repository that GitHub Actions runs for, or of git's remote `origin`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.util import toml
from builder.util.errors import UsageError
from builder.util.files import ROOT
from builder.util.process import CommandError, run

PROJECT_FILE = Path(__file__).with_name("project.toml")

_REMOTE = re.compile(
    r"(?:https://(?:[^@/\s]*@)?|(?:ssh://)?[\w.-]+@)(?P<host>[\w.-]+)[:/](?!\d+/)(?P<path>\S+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Project:
    """This project; its address may be empty."""

    name: str
    url: str
    revision: str  # git commit, with `+changes` where files differ from it; empty without git


def load_project(environ: Mapping[str, str], root: Path = ROOT, file: Path = PROJECT_FILE) -> Project:
    """Return the project's name, address and revision, of the checkout at `root`."""
    revision = git(root, "rev-parse", "HEAD")
    # Only what goes into a build counts.
    if revision and git(root, "status", "--porcelain", "--", "builder", "patches", "targets"):
        revision += "+changes"
    values = toml.load(file, UsageError)
    if values["url"]:
        url = values["url"].rstrip("/")
    elif repository := environ.get("GITHUB_REPOSITORY"):
        url = f"{environ.get('GITHUB_SERVER_URL') or 'https://github.com'}/{repository}"
    else:
        # As the checkout's own configuration has it: the user's may rewrite addresses (`url.X.insteadOf`).
        url = address_of_remote(git(root, "config", "--local", "--get", "remote.origin.url"))
    return Project(values["name"], url, revision)


def address_of_remote(remote: str) -> str:
    """Return the page of a git remote, without user name, password or `.git`; empty where it has none.

    `git@github.com:owner/name.git` and `https://token@github.com/owner/name` are both
    `https://github.com/owner/name`.
    """
    match = _REMOTE.fullmatch(remote)
    return f"https://{match['host']}/{match['path']}" if match else ""


def git(root: Path, *arguments: str) -> str:
    """Return what git says about this checkout and no other; empty where that fails.

    `GIT_DIR`, which git sets for its hooks, would name another repository; an archive may be unpacked in one;
    and the checkout may be another user's, as in a container.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["GIT_CEILING_DIRECTORIES"] = str(root.absolute().parent)
    try:
        return run(["git", "-c", "safe.directory=*", "-C", root, *arguments], env=env).output.strip()
    except CommandError:
        return ""
