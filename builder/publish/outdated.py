"""The command that lists what is newer than what this checkout pins.

Each source is asked and reported separately, and one that did not answer is never taken for up to date. Only
versions for a target's own CUDA version count (13.0.2 to 13.0.3): a newer CUDA version is another target.

Exit status: 0 if every source answered and nothing is newer, 20 if something is newer (even if another source
did not answer), 21 if nothing newer is known but some source did not answer.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from github import Github
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from builder.publish.github_api import API_URL, connect, github_errors, token_from_environment
from builder.target.targets import TARGETS_DIR, TOOLCHAINS, Target, load_targets
from builder.target.upstream import FILE_NAME, PATCHES_DIR, Release, load_release
from builder.util import http
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, DownloadError, UsageError
from builder.util.log import say
from builder.util.process import run

UP_TO_DATE, NEWER, NO_ANSWER = 0, 20, 21
KINDS = ("releases", "commits", "torch", "packages", "archives")
_PLATFORM = "linux-x86_64"


def main(argv: Sequence[str]) -> int:
    """Ask every source, print what to change, and return 0, 20 or 21 (see the module).

    Raises:
        BuilderError: A target's file is wrong.
    """
    options = _parser().parse_args(argv)
    targets = load_targets(options.targets, options.patches)
    github = connect(options.api_url, token_from_environment(), longest_wait_seconds=30)
    changes: list[str] = []
    unanswered = 0
    for kind, source, ask in _sources(targets, options.targets, options.patches, github):
        if kind in options.ignore:
            continue
        try:
            with github_errors():
                newer = ask()
        except (BuilderError, ValueError) as error:
            unanswered += 1
            say(f"NO ANSWER    {source}\n             {' '.join(str(error).split())}")
            continue
        say(f"{f'{len(newer)} newer' if newer else 'up to date':<12} {source}")
        changes += newer
    if changes:
        say("\nTo change:")
    for change in dict.fromkeys(changes):
        say(f"  {change}")
    return NEWER if changes else NO_ANSWER if unanswered else UP_TO_DATE


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s outdated --",
        description="List what is newer than what this checkout pins.",
        epilog="Exit status: 0 nothing is newer, 20 something is newer, 21 some source did not answer.",
    )
    parser.add_argument("--targets", type=Path, default=TARGETS_DIR, metavar="DIR")
    parser.add_argument("--patches", type=Path, default=PATCHES_DIR, metavar="DIR")
    parser.add_argument("--api-url", default=os.environ.get("GITHUB_API_URL") or API_URL, metavar="URL")
    parser.add_argument(
        "--ignore",
        choices=KINDS,
        action="append",
        default=[],
        help="omit a kind of source; may be given more than once",
    )
    return parser


def _sources(
    targets: Mapping[str, Target], targets_dir: Path, patches_dir: Path, github: Github
) -> Iterator[tuple[str, str, Callable[[], list[str]]]]:
    """Yield every source once: its kind, its name, and what asks it for changes."""
    for upstream in sorted({target.upstream for target in targets.values()}):
        release = load_release(patches_dir / upstream)
        file = f"{patches_dir.name}/{upstream}/{FILE_NAME}"
        match = re.match(r"https://github\.com/([\w.-]+/[\w.-]+)/", release.url)
        if match is None:
            raise UsageError(
                f"{file}: url: {release.url} is not GitHub's.", "Newer releases can be listed only there."
            )
        name = match[1]
        releases = f"SageAttention releases ({name})"
        yield "releases", releases, partial(_releases, github, name, file, release)
        commits = f"SageAttention commits since {release.tag} ({name})"
        yield "commits", commits, partial(_commits, github, name, file, release)
    for target in targets.values():
        file = f"{targets_dir.name}/{target.name}.toml"
        yield "torch", f"torch for {target.name} ({target.torch_index})", partial(_torch, target, file)
    toolchains: dict[tuple[str, str], Target] = {}
    for target in targets.values():
        toolchains.setdefault((target.cuda_tag, target.machine.name), target)
    for (cuda_tag, machine), target in toolchains.items():
        file = f"{targets_dir.name}/{TOOLCHAINS}/{cuda_tag}.toml"
        if target.toolchain_packages:
            packages = f"CUDA {target.cuda} packages for {machine} (the configured package index)"
            yield "packages", packages, partial(_packages, target, file)
        if target.toolchain_archives:
            archives = f"CUDA {target.cuda} archives ({urlsplit(target.toolchain_archives[0].url).netloc})"
            yield "archives", archives, partial(_archives, target, file)


def _change(file: str, key: str, old: str, new: str, note: str = "") -> str:
    return f"{file}: {key}: {old} -> {new}" + (f"\n      {note}" if note else "")


def _releases(github: Github, name: str, file: str, release: Release) -> list[str]:
    """Return the newest tag, if it is newer, and the pinned one, if it is no longer at the pinned commit."""
    tags = {tag.name: tag.commit.sha for tag in github.get_repo(name).get_tags()}
    if release.tag not in tags:
        raise DownloadError(f"{name} has {len(tags)} tags, and {release.tag} is not one of them.")
    changes = []
    if tags[release.tag] != release.commit:
        note = "The tag was moved. See what changed before you build from it."
        changes.append(_change(file, "commit", release.commit, tags[release.tag], note))
    newest, newest_tag = Version(release.version), ""
    for tag in tags:
        try:
            version = Version(tag)
        except InvalidVersion:
            continue
        if version > newest and not version.is_prerelease:
            newest, newest_tag = version, tag
    if newest_tag:
        note = (
            f"Try it with --source. Then copy patches/{release.tag}/ to patches/{newest_tag}/ and name it in "
            "targets/."
        )
        changes.append(_change(file, "tag", release.tag, newest_tag, note))
    return changes


def _commits(github: Github, name: str, file: str, release: Release) -> list[str]:
    """Return the newest commit of the default branch, if it is not the pinned one."""
    repository = github.get_repo(name)
    ahead = repository.compare(release.commit, "HEAD").ahead_by
    if ahead == 0:
        return []
    newest = repository.get_commit("HEAD")
    subject = newest.commit.message.partition("\n")[0]
    note = (
        f"{ahead} commit{'' if ahead == 1 else 's'} on the default branch, newest: {subject}. They are not "
        "released. See whether they fix what the patches fix."
    )
    return [_change(file, "commit", release.commit[:12], newest.sha[:12], note)]


def _torch(target: Target, file: str) -> list[str]:
    """Return the newest torch on a target's index for its Python, if it is not the pinned one."""
    newest = Version(_newest(["torch"], target, ["--default-index", target.torch_index])["torch"]).public
    if newest == target.torch:
        return []
    gone = "" if Version(newest) > Version(target.torch) else "The index no longer has the pinned one."
    return [_change(file, "torch", target.torch, newest, gone)]


def _packages(target: Target, file: str) -> list[str]:
    """Return newer versions of the compiler's packages, from the package index that uv is configured for."""
    pins = [
        (key, text, Requirement(text).name, next(iter(Requirement(text).specifier)).version)
        for key, texts in (("packages", target.toolchain_packages), ("runtime", target.toolchain_runtime))
        for text in texts
    ]
    # A package that has CUDA's own version stays within that CUDA version.
    wanted = {
        f"{name}=={target.cuda}.*" if f"{pin}.".startswith(f"{target.cuda}.") else name
        for _, _, name, pin in pins
    }
    newest = _newest(sorted(wanted), target)
    note = f"torch {target.torch} may require the old one; a build would say so."
    return [
        _change(file, key, text, text.replace(f"=={pin}", f"=={newest[name]}"), note)
        for key, text, name, pin in pins
        if Version(newest[name]) > Version(pin)
    ]


def _newest(requirements: Sequence[str], target: Target, options: Sequence[str] = ()) -> dict[str, str]:
    """Return the newest version of each package for a target's Python and machine, as uv resolves it."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--upgrade", "--no-deps", "--quiet"]
    command += ["--no-header", "--no-annotate", "--python-version", target.python]
    command += ["--python-platform", f"{target.machine.name}-manylinux_2_34", *options]
    output = run(command, text="\n".join(requirements) + "\n", timeout_seconds=300).output
    return dict(re.findall(r"^([\w.-]+)==(\S+)", output, re.MULTILINE))


def _archives(target: Target, file: str) -> list[str]:
    """Return how the pinned archives differ from NVIDIA's newest manifest for the same CUDA version."""
    folder = re.sub(r"(?<=/redist/).*", "", target.toolchain_archives[0].url)
    listing = http.get(folder).decode(errors="replace")
    patches = [
        int(number) for number in re.findall(rf"redistrib_{re.escape(target.cuda)}\.(\d+)\.json", listing)
    ]
    if not patches:
        raise DownloadError(f"{folder} lists no manifest of CUDA {target.cuda}.")
    manifest = http.get_json(f"{folder}redistrib_{target.cuda}.{max(patches)}.json")
    changes = []
    for archive in target.toolchain_archives:
        part = manifest[archive.name][_PLATFORM]
        old = {"url": archive.url, "sha256": archive.sha256, "size_bytes": str(archive.size_bytes)}
        new = {"url": folder + part["relative_path"], "sha256": part["sha256"], "size_bytes": part["size"]}
        note = ""
        if old["url"] == new["url"] and old != new:
            note = "The manifest has different bytes at the same address: find out why before you build."
        changes += [
            _change(file, f"archives[{archive.name}].{key}", old[key], new[key], note)
            for key in old
            if old[key] != new[key]
        ]
    return changes
