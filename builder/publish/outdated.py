"""What is newer than what this checkout pins: SageAttention, torch, the CUDA packages and archives.

Every source is asked and reported for itself, and one that did not answer is never taken for up to date.
Within a target only what keeps its CUDA version counts (13.0.2 to 13.0.3): a newer CUDA version is not a
change of a target but another target.

Exit status: 0 where every source answered and nothing is newer, 20 where something is newer (even if another
source did not answer), 21 where nothing newer is known but some source did not answer.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from builder.target.pins import Archive
from builder.target.targets import TARGETS_DIR, TOOLCHAINS, Target, load_targets
from builder.target.upstream import FILE_NAME, PATCHES_DIR, Release, load_release
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, UsageError
from builder.util.github import API_URL, Api, token_from
from builder.util.log import say
from builder.util.toml import tomllib

UP_TO_DATE = 0
NEWER = 20
NOT_ASKED = 21

KINDS = ("releases", "commits", "torch", "packages", "archives")

_TIMEOUT_SECONDS = 60
_UV_TIMEOUT_SECONDS = 300
_LONGEST_WAIT_SECONDS = 30.0
_PLATFORM = "linux-x86_64"


class NotAskedError(Exception):
    """A source that did not answer, or whose answer is not what it should be."""


@dataclass(frozen=True)
class Change:
    """Something to change in this checkout.

    Attributes:
        file: The file, relative to the checkout.
        key: Its key.
        old: The value now.
        new: The value that it could have.
        note: What else to know; empty where that is all.
    """

    file: str
    key: str
    old: str
    new: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of asking one source.

    Attributes:
        kind: One of `KINDS`.
        source: What was asked, in words.
        changes: What it has newer.
        problem: Why it could not be asked; empty where it was.
    """

    kind: str
    source: str
    changes: tuple[Change, ...] = ()
    problem: str = ""


def main(argv: Sequence[str]) -> int:
    """Ask every source, and print what to change.

    Args:
        argv: The command's arguments.

    Returns:
        0, 20 or 21: see the module.

    Raises:
        BuilderError: A target's file is wrong.
    """
    options = _parser().parse_args(argv)
    mirrors = dict(options.mirror)
    targets = load_targets(options.targets, options.patches)
    web = Web(mirrors)
    api = Api(
        options.api_url,
        token_from(os.environ),
        attempts=2,
        longest_wait_seconds=_LONGEST_WAIT_SECONDS,
    )
    answers = []
    for kind, source, ask in _questions(targets, options.targets, options.patches, web, api):
        if kind in options.ignore:
            continue
        answer = _ask(kind, source, ask)
        say(f"{_state(answer):<12} {source}" + (f"\n             {answer.problem}" if answer.problem else ""))
        answers.append(answer)
    changes = list(dict.fromkeys(change for answer in answers for change in answer.changes))
    if changes:
        say("\nTo change:")
    for change in changes:
        say(f"  {change.file}: {change.key}: {change.old} -> {change.new}")
        if change.note:
            say(f"      {change.note}")
    return exit_status(answers)


def exit_status(answers: Iterable[Answer]) -> int:
    """The command's exit status: see the module."""
    answers = list(answers)
    if any(answer.changes for answer in answers):
        return NEWER
    return NOT_ASKED if any(answer.problem for answer in answers) else UP_TO_DATE


def _state(answer: Answer) -> str:
    if answer.problem:
        return "NOT ASKED"
    return f"{len(answer.changes)} newer" if answer.changes else "up to date"


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s outdated --",
        description=__doc__.partition("\n")[0],
        epilog="Exit status: 0 nothing newer, 20 something newer, 21 some source did not answer.",
    )
    parser.add_argument("--targets", type=Path, default=TARGETS_DIR, metavar="DIR")
    parser.add_argument("--patches", type=Path, default=PATCHES_DIR, metavar="DIR")
    parser.add_argument("--api-url", default=os.environ.get("GITHUB_API_URL") or API_URL, metavar="URL")
    parser.add_argument(
        "--mirror",
        type=_mirror,
        action="append",
        default=[],
        metavar="FROM=TO",
        help="ask TO for addresses that begin with FROM; may be given more than once",
    )
    parser.add_argument(
        "--ignore",
        choices=KINDS,
        action="append",
        default=[],
        help="leave a kind of source out; may be given more than once",
    )
    return parser


def _mirror(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(https?://[^=\s]+)=(https?://\S+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM=TO with two addresses")
    return match[1].rstrip("/"), match[2].rstrip("/")


Question = Callable[[], list[Change]]


def _questions(
    targets: Mapping[str, Target], targets_dir: Path, patches_dir: Path, web: Web, api: Api
) -> Iterable[tuple[str, str, Question]]:
    """Every source once: kind, name, and how to ask it."""
    for upstream in sorted({target.upstream for target in targets.values()}):
        release = load_release(patches_dir / upstream)
        file = f"{patches_dir.name}/{upstream}/{FILE_NAME}"
        repository = repository_of(release.url)
        if not repository:
            raise UsageError(f"{file}: url: {release.url} is not GitHub's.", "Its releases can't be watched.")
        watched = Upstream(repository, file, release)
        yield "releases", f"SageAttention releases ({repository})", partial(newer_releases, api, watched)
        since = f"SageAttention commits since {release.tag} ({repository})"
        yield "commits", since, partial(newer_commits, api, watched)
    for target in targets.values():
        file = f"{targets_dir.name}/{target.name}.toml"
        source = f"torch for {target.name} ({target.torch_index})"
        yield "torch", source, partial(newer_torch, web, target, file)
    asked = set()
    for target in targets.values():
        file, prefix = toolchain_file(target, targets_dir)
        if file in asked:
            continue
        asked.add(file)
        if target.toolchain_packages:
            source = f"CUDA {target.cuda} packages (the configured package index)"
            yield "packages", source, partial(newer_packages, target, file, prefix)
        if target.toolchain_archives:
            source = f"CUDA {target.cuda} archives ({_host(target.toolchain_archives[0].url)})"
            yield "archives", source, partial(newer_archives, web, target, file, prefix)


def _ask(kind: str, source: str, ask: Question) -> Answer:
    try:
        return Answer(kind, source, changes=tuple(ask()))
    except NotAskedError as error:
        return Answer(kind, source, problem=str(error))
    except BuilderError as error:
        return Answer(kind, source, problem=error.message)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Answer(kind, source, problem=f"Its answer is not what it should be: {error!r}.")


def _host(url: str) -> str:
    return urlsplit(url).netloc


# --- SageAttention ----------------------------------------------------------------------------------


def repository_of(url: str) -> str:
    """`owner/name` of an archive's address at GitHub; empty for another address."""
    match = re.match(r"https://github\.com/([\w.-]+/[\w.-]+)/", url)
    return match[1] if match else ""


@dataclass(frozen=True)
class Upstream:
    """The pinned release, where it is described, and where newer ones would be.

    Attributes:
        repository: `owner/name` at GitHub.
        file: Its `upstream.toml`.
        release: What is pinned.
    """

    repository: str
    file: str
    release: Release


def newer_releases(api: Api, upstream: Upstream) -> list[Change]:
    """Tags of newer versions; and the pinned tag, where it is not at the pinned commit any more."""
    repository, file, release = upstream.repository, upstream.file, upstream.release
    tag, commit = release.tag, release.commit
    tags = {str(item["name"]): str(item["commit"]["sha"]) for item in api.list(f"repos/{repository}/tags")}
    if tag not in tags:
        raise NotAskedError(f"{repository} has {len(tags)} tags, and {tag} is none of them.")
    changes = []
    if tags[tag] != commit:
        note = "The tag was moved: see what changed before you build from it."
        changes.append(Change(file, "commit", commit, tags[tag], note))
    versions = {name: parsed for name in tags if (parsed := _version(name.removeprefix("v"))) is not None}
    newer = [
        name
        for name, parsed in versions.items()
        if parsed > Version(release.version) and not parsed.is_prerelease
    ]
    if newer:
        newest = max(newer, key=lambda name: versions[name])
        note = (
            f"Try it with --source, then make patches/{newest}/ from patches/{tag}/ and name it in targets/."
        )
        changes.append(Change(file, "tag", tag, newest, note))
    return changes


def newer_commits(api: Api, upstream: Upstream) -> list[Change]:
    """Commits on the default branch after the pinned one."""
    repository, file, commit = upstream.repository, upstream.file, upstream.release.commit
    branch = str(api.get(f"repos/{repository}")["default_branch"])
    compared = api.get(f"repos/{repository}/compare/{commit}...{branch}")
    ahead = int(compared["ahead_by"])
    if ahead == 0:
        return []
    # The API gives at most 250 commits, oldest first; where there are more, the newest is not among them.
    commits = compared.get("commits") or []
    last = commits[-1] if len(commits) == ahead else {}
    subject = str(last.get("commit", {}).get("message", "")).partition("\n")[0]
    what = f"{ahead} commit{'' if ahead == 1 else 's'} on {branch}" + (
        f", newest: {subject}" if subject else ""
    )
    note = f"{what}. Not released: worth a look for faults that the patches mend."
    return [Change(file, "commit", commit[:12], str(last.get("sha") or branch)[:12], note)]


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


# --- torch --------------------------------------------------------------------------------------------


class _FileNames(HTMLParser):
    """File names that a page of a simple index links (PEP 503)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self.names.append(unquote(urlsplit(href).path.rpartition("/")[2]))


def linked_names(text: str) -> list[str]:
    """File names that an HTML page links to."""
    return _FileNames(text).names


def newer_torch(web: Web, target: Target, file: str) -> list[Change]:
    """The newest torch on a target's index that has a wheel for its Python, if it is newer."""
    url = f"{target.torch_index}/torch/"
    versions = torch_versions(linked_names(web.text(url)), target.python)
    if not versions:
        raise NotAskedError(f"{url} lists no torch for Python {target.python} on Linux.")
    newest = max(versions)
    pinned = Version(target.torch)
    if newest > pinned:
        return [Change(file, "torch", target.torch, str(newest))]
    if pinned not in versions:
        return [Change(file, "torch", target.torch, str(newest), "The index has the pinned one no more.")]
    return []


def torch_versions(names: Iterable[str], python: str) -> set[Version]:
    """Versions among a page's wheels for this Python on Linux x86_64: released ones, without local label."""
    interpreter = "cp" + python.replace(".", "")
    found = set()
    for name in names:
        try:
            project, version, _, tags = parse_wheel_filename(name)
        except InvalidWheelFilename:
            continue
        fits = any(
            tag.interpreter == interpreter
            and tag.abi in (interpreter, "abi3")
            and re.fullmatch(r"(many)?linux\w*_x86_64", tag.platform)
            for tag in tags
        )
        if project == "torch" and fits and not version.is_prerelease:
            found.add(Version(version.public))
    return found


# --- the CUDA compiler ----------------------------------------------------------------------------------


def toolchain_file(target: Target, targets_dir: Path) -> tuple[str, str]:
    """Where a target's toolchain is pinned: the file, and what stands before its keys."""
    own = targets_dir / f"{target.name}.toml"
    if "toolchain" in tomllib.loads(own.read_text(encoding="utf-8")):
        return f"{targets_dir.name}/{own.name}", "toolchain."
    return f"{targets_dir.name}/{TOOLCHAINS}/{target.cuda_tag}.toml", ""


def newer_packages(target: Target, file: str, prefix: str) -> list[Change]:
    """Newer versions of the compiler's packages, from the package index that uv is configured for."""
    pins = {}
    for text in target.toolchain_packages:
        requirement = Requirement(text)
        pins[requirement.name] = (text, next(iter(requirement.specifier)).version)
    found = newest_packages(
        [wanted(name, pin, target.cuda) for name, (_, pin) in pins.items()], target.python
    )
    changes = []
    for name, (text, pin) in pins.items():
        newest = found.get(name)
        if newest is None:
            raise NotAskedError(f"uv says nothing of {name}.")
        if Version(newest) > Version(pin):
            note = f"torch {target.torch} may require the old one: a build says so."
            changes.append(
                Change(file, f"{prefix}packages", text, text.replace(f"=={pin}", f"=={newest}"), note)
            )
    return changes


def wanted(name: str, pin: str, cuda: str) -> str:
    """What to ask for in place of a pin: any version; of the same CUDA, where CUDA's version is the pin's."""
    return f"{name}=={cuda}.*" if f"{pin}.".startswith(f"{cuda}.") else name


def newest_packages(requirements: Sequence[str], python: str) -> dict[str, str]:
    """The newest version of each package that fits, as uv resolves it.

    Args:
        requirements: What to ask for.
        python: The Python that they are for.

    Raises:
        NotAskedError: uv could not say.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--upgrade", "--no-deps", "--quiet"]
    command += ["--no-header", "--no-annotate", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_34"]
    try:
        done = subprocess.run(
            command,
            input="\n".join(requirements) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=_UV_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NotAskedError(f"uv did not answer within {_UV_TIMEOUT_SECONDS} s.") from None
    if done.returncode != 0:
        raise NotAskedError("uv: " + " ".join(done.stderr.split())[:400])
    pins = re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE)
    return dict(pins)


def newer_archives(web: Web, target: Target, file: str, prefix: str) -> list[Change]:
    """What NVIDIA's newest manifest of the same CUDA version says of the pinned archives."""
    base, found, _ = target.toolchain_archives[0].url.partition("/redist/")
    if not found:
        raise NotAskedError(f"{base} is not in a folder redist/, so there is no manifest of it.")
    folder = f"{base}{found}"
    manifest = newest_manifest(linked_names(web.text(folder)), target.cuda)
    if not manifest:
        raise NotAskedError(f"{folder} lists no manifest of CUDA {target.cuda}.")
    components = web.json(f"{folder}{manifest}")
    changes = []
    for archive in target.toolchain_archives:
        part = components.get(archive.name, {}).get(_PLATFORM)
        if not isinstance(part, dict) or not {"relative_path", "sha256", "size"} <= part.keys():
            raise NotAskedError(f"{manifest} does not tell of {archive.name} for {_PLATFORM}.")
        changes += compare_archive(archive, part, folder, file, f"{prefix}archives[{archive.name}]")
    return changes


def newest_manifest(names: Iterable[str], cuda: str) -> str:
    """The newest `redistrib_X.Y.Z.json` of a CUDA version among names; empty where there is none."""
    pattern = rf"redistrib_{re.escape(cuda)}\.(\d+)\.json"
    found = {int(match[1]): match[0] for name in names if (match := re.fullmatch(pattern, name))}
    return found[max(found)] if found else ""


def compare_archive(
    archive: Archive, part: Mapping[str, Any], folder: str, file: str, key: str
) -> list[Change]:
    """The keys of an archive that differ from a manifest's."""
    there = {
        "url": folder + str(part["relative_path"]),
        "sha256": str(part["sha256"]),
        "size_bytes": str(part["size"]),
    }
    here = {"url": archive.url, "sha256": archive.sha256, "size_bytes": str(archive.size_bytes)}
    note = ""
    if there["url"] == here["url"] and there != here:
        note = "The manifest describes other bytes under the same address: find out why before you build."
    return [
        Change(file, f"{key}.{name}", here[name], there[name], note)
        for name in here
        if here[name] != there[name]
    ]


# --- asking ---------------------------------------------------------------------------------------------


class Web:
    """Plain pages, from where they are or from a mirror.

    Args:
        mirrors: Beginnings of addresses, and what to ask in their place.
    """

    def __init__(self, mirrors: Mapping[str, str]) -> None:
        self._mirrors = mirrors
        self._session = requests.Session()
        adapter = HTTPAdapter(
            max_retries=Retry(total=2, backoff_factor=0.5, status_forcelist=(502, 503, 504))
        )
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def text(self, url: str) -> str:
        """A page.

        Raises:
            NotAskedError: It could not be had.
        """
        return self._get(url).text

    def json(self, url: str) -> dict[str, Any]:
        """A JSON object.

        Raises:
            NotAskedError: It could not be had, or is something else.
        """
        try:
            values = self._get(url).json()
        except requests.JSONDecodeError:
            raise NotAskedError(f"{url} answers without JSON.") from None
        if not isinstance(values, dict):
            raise NotAskedError(f"{url} answers without a JSON object.")
        return values

    def _get(self, url: str) -> requests.Response:
        asked = url
        for start, instead in self._mirrors.items():
            if url == start or url.startswith(f"{start}/"):
                asked = instead + url[len(start) :]
        try:
            response = self._session.get(asked, timeout=_TIMEOUT_SECONDS, headers={"Accept": "*/*"})
            response.raise_for_status()
        except requests.RequestException as error:
            raise NotAskedError(f"{asked}: {error}") from None
        return response
