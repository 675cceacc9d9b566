"""The command that lists what is newer than what this checkout pins.

Each source is asked and reported separately, and one that did not answer is never taken for up to date. Only
versions for a target's own CUDA version count (13.0.2 to 13.0.3): a newer CUDA version is another target.

Exit status: 0 if every source answered and nothing is newer, 20 if something is newer (even if another source
did not answer), 21 if nothing newer is known but some source did not answer.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from github import Github
from github.Repository import Repository
from packaging.requirements import Requirement
from packaging.version import Version

from builder.publish.github_api import add_api_url, connect, github_errors, token_from_environment
from builder.target.targets import (
    FILE_NAME,
    PATCHES_DIR,
    TARGETS_DIR,
    TOOLCHAINS,
    Release,
    Target,
    load_release,
    load_targets,
)
from builder.util import http
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, DownloadError
from builder.util.log import say
from builder.util.process import run

UP_TO_DATE, NEWER, NO_ANSWER = 0, 20, 21
KINDS = ("releases", "commits", "torch", "packages", "archives")


def main(argv: Sequence[str]) -> int:
    """Ask every source, print what to change, and return 0, 20 or 21 (see the module)."""
    options = _parser().parse_args(argv)
    targets = load_targets(options.targets, options.patches)
    github = connect(options.api_url, token_from_environment(), longest_wait_seconds=30)
    changes: list[str] = []
    unanswered = 0
    for kind, source, ask in _sources(targets, options.patches, github):
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
    add_api_url(parser)
    help_ = "omit a kind of source; may be given more than once"
    parser.add_argument("--ignore", choices=KINDS, action="append", default=[], help=help_)
    return parser


def _sources(
    targets: Mapping[str, Target], patches: Path, github: Github
) -> Iterator[tuple[str, str, Callable[[], list[str]]]]:
    """Yield every source once: its kind, its name, and what asks it for changes."""
    for upstream in sorted({target.upstream for target in targets.values()}):
        release = load_release(patches / upstream)
        name = "/".join(release.url.split("/")[3:5])  # of https://github.com/OWNER/NAME/archive/...
        arguments = (github.get_repo(name), f"patches/{upstream}/{FILE_NAME}", release)
        yield "releases", f"SageAttention releases ({name})", partial(_releases, *arguments)
        yield "commits", f"SageAttention commits since {release.tag} ({name})", partial(_commits, *arguments)
    toolchains: dict[tuple[str, str], Target] = {}
    for target in targets.values():
        toolchains.setdefault((target.cuda_tag, target.machine.name), target)
        yield "torch", f"torch for {target.name} ({target.torch_index})", partial(_torch, target)
    for (cuda_tag, machine), target in toolchains.items():
        file = f"targets/{TOOLCHAINS}/{cuda_tag}.toml"
        if target.toolchain_packages:
            packages = f"CUDA {target.cuda} packages for {machine} (the configured package index)"
            yield "packages", packages, partial(_packages, target, file)
        if target.toolchain_archives:
            archives = f"CUDA {target.cuda} archives ({urlsplit(target.toolchain_archives[0].url).netloc})"
            yield "archives", archives, partial(_archives, target, file)


def _releases(repository: Repository, file: str, release: Release) -> list[str]:
    """Return the newest tag, if it is newer, and the pinned one, if it is no longer at the pinned commit."""
    tags = {tag.name: tag.commit.sha for tag in repository.get_tags()}
    if release.tag not in tags:
        raise DownloadError(f"The repository has {len(tags)} tags, and {release.tag} is not one of them.")
    changes, tagged = [], tags[release.tag]
    if tagged != release.commit:
        changes.append(f"{file}: commit: {release.commit} -> {tagged} (the tag was moved: see why)")
    finals = [tag for tag in tags if re.fullmatch(r"v?\d+(\.\d+)*", tag)]
    newest = max([release.tag, *finals], key=Version)
    return [*changes, f"{file}: tag: {release.tag} -> {newest}"] if newest != release.tag else changes


def _commits(repository: Repository, file: str, release: Release) -> list[str]:
    """Return the newest commit of the default branch, if it is not the pinned one."""
    ahead = repository.compare(release.commit, "HEAD").ahead_by
    if ahead == 0:
        return []
    newest = repository.get_commit("HEAD")
    note = f"{ahead} not released: {newest.commit.message.splitlines()[0]}"
    return [f"{file}: commit: {release.commit[:12]} -> {newest.sha[:12]} ({note})"]


def _torch(target: Target) -> list[str]:
    """Return the newest torch on a target's index for its Python, if it is not the pinned one."""
    newest = Version(_newest("torch", target, "--default-index", target.torch_index)).public
    return [f"targets/{target.name}.toml: torch: {target.torch} -> {newest}"] * (newest != target.torch)


def _packages(target: Target, file: str) -> list[str]:
    """Return newer versions of the compiler's packages, from the package index that uv is configured for."""
    changes = []
    for key, texts in (("packages", target.toolchain_packages), ("runtime", target.toolchain_runtime)):
        for text in texts:
            name, pin = Requirement(text).name, next(iter(Requirement(text).specifier)).version
            # A package that has CUDA's own version stays within that CUDA version.
            within = f"=={target.cuda}.*" if f"{pin}.".startswith(f"{target.cuda}.") else ""
            newest = _newest(name + within, target)
            if Version(newest) > Version(pin):
                changes.append(f"{file}: {key}: {text} -> {text.replace(f'=={pin}', f'=={newest}')}")
    return changes


def _newest(requirement: str, target: Target, *options: str) -> str:
    """Return the newest version of a package for a target's Python and machine, as uv resolves it."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--upgrade", "--no-deps", "--quiet"]
    command += ["--no-header", "--no-annotate", "--python-version", target.python]
    command += ["--python-platform", f"{target.machine.name}-manylinux_2_34", *options]
    return run(command, text=f"{requirement}\n", timeout_seconds=300).output.strip().partition("==")[2]


def _archives(target: Target, file: str) -> list[str]:
    """Return how the pinned archives differ from NVIDIA's newest manifest for the same CUDA version."""
    folder = re.sub(r"(?<=/redist/).*", "", target.toolchain_archives[0].url)
    listing = http.get(folder).decode(errors="replace")
    patches = [*map(int, re.findall(rf"redistrib_{re.escape(target.cuda)}\.(\d+)\.json", listing))]
    if not patches:
        raise DownloadError(f"{folder} lists no manifest of CUDA {target.cuda}.")
    manifest = http.get_json(f"{folder}redistrib_{target.cuda}.{max(patches)}.json")
    changes = []
    for archive in target.toolchain_archives:
        part = manifest[archive.name]["linux-x86_64"]
        pinned = {"url": archive.url, "sha256": archive.sha256, "size_bytes": str(archive.size_bytes)}
        newest = {"url": folder + part["relative_path"], "sha256": part["sha256"], "size_bytes": part["size"]}
        changes += [
            f"{file}: archives[{archive.name}].{key}: {pinned[key]} -> {newest[key]}"
            for key in pinned
            if pinned[key] != newest[key]
        ]
    return changes
