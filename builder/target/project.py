"""The project's own name and address, and the commit of it that is used.

`project.toml` beside this file has them. A fork need not edit it: if its `url` is empty, the address is that
of the repository that GitHub Actions runs for, or of git's remote `origin`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.util import toml
from builder.util.errors import UsageError
from builder.util.paths import ROOT
from builder.util.process import CommandError, run

PROJECT_FILE = Path(__file__).with_name("project.toml")

_GITHUB_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_HTTPS_REMOTE = re.compile(r"https://(?:[^@/\s]*@)?(?P<place>[\w.-]+/\S+?)(?:\.git)?/?")
_SSH_REMOTE = re.compile(r"(?:ssh://)?[\w.-]+@(?P<host>[\w.-]+)[:/](?!\d+/)(?P<path>\S+?)(?:\.git)?/?")
_ADDRESS = r"(https://[\w.-]+/\S+)?"


@dataclass(frozen=True)
class Project:
    """This project.

    Attributes:
        name: Its name.
        url: Its address; empty where none is known.
        revision: The git commit that is used, with `+changes` where files differ from it; empty without git.
    """

    name: str
    url: str
    revision: str


def load_project(environ: Mapping[str, str], root: Path = ROOT, file: Path = PROJECT_FILE) -> Project:
    """Return the project's name, address and revision.

    Args:
        environ: `GITHUB_REPOSITORY` and `GITHUB_SERVER_URL` count, as GitHub Actions sets them.
        root: The checkout.
        file: The TOML file with `name` and `url`.

    Raises:
        UsageError: The file is wrong, or `GITHUB_REPOSITORY` is not OWNER/NAME.
    """
    table = toml.read(file, UsageError)
    table.keys(("name", "url"))
    name = table.text("name", r"[A-Za-z0-9][\w .+-]{0,99}", "a name")
    own = table.text("url", _ADDRESS, "an https address, or empty").rstrip("/")
    # As the checkout's own configuration has it: the user's may rewrite addresses (`url.X.insteadOf`).
    remote = _git(root, "config", "--local", "--get", "remote.origin.url")
    url = own or _from_actions(environ) or address_of_remote(remote)
    return Project(name, url, _revision(root))


def address_of_remote(remote: str) -> str:
    """Return the page of a git remote, without user name, password or `.git`; empty where it has none.

    `git@github.com:owner/name.git` and `https://token@github.com/owner/name` are both
    `https://github.com/owner/name`.
    """
    if match := _HTTPS_REMOTE.fullmatch(remote):
        return f"https://{match['place']}"
    if match := _SSH_REMOTE.fullmatch(remote):
        return f"https://{match['host']}/{match['path']}"
    return ""


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
    # Only what goes into a build counts, and no hidden files or copies of an editor's.
    paths = ["builder", "patches", "targets", *(f":(exclude,glob)**/{name}" for name in (".*", "*~", "#*#"))]
    changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *paths)
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    """Ask git about this checkout and no other, whatever the environment and the user's configuration say.

    `GIT_DIR`, which git sets for its hooks, would name another repository. An archive may be unpacked in one.
    The checkout may be another user's, as in a container: this is its own code that is running.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CEILING_DIRECTORIES": str(root.absolute().parent), "GIT_OPTIONAL_LOCKS": "0"}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    try:
        return run(command, env=env).output.strip()
    except CommandError:
        return ""
