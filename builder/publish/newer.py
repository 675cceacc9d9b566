"""Compares what a checkout pins with what its sources have: SageAttention, torch, and the CUDA compiler."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from builder.publish.web import NotAskedError, Web
from builder.target.pins import Archive
from builder.target.targets import TOOLCHAINS, Target
from builder.target.upstream import Release
from builder.util.github.api import Api
from builder.util.limits import RESOLVE_SECONDS
from builder.util.process import CommandError, run
from builder.util.toml import tomllib

_PLATFORM = "linux-x86_64"


@dataclass(frozen=True)
class Change:
    """Something to change in this checkout.

    Attributes:
        file: The file, relative to the checkout.
        key: Its key.
        old: The value now.
        new: The value that it could have.
        note: What else to know, or empty.
    """

    file: str
    key: str
    old: str
    new: str
    note: str = ""


def repository_of(url: str) -> str:
    """Return `owner/name` from an archive's address at GitHub; empty for another address."""
    match = re.match(r"https://github\.com/([\w.-]+/[\w.-]+)/", url)
    return match[1] if match else ""


def newer_releases(api: Api, repository: str, file: str, release: Release) -> list[Change]:
    """Return the newest tag, if it is newer, and the pinned one, if it is no longer at the pinned commit.

    Args:
        api: GitHub's API.
        repository: `owner/name`.
        file: The file that pins the release.
        release: What is pinned.

    Raises:
        NotAskedError: The repository does not have the pinned tag.
        GitHubError: The API does not answer.
    """
    tag, commit = release.tag, release.commit
    tags = {str(item["name"]): str(item["commit"]["sha"]) for item in api.list(f"repos/{repository}/tags")}
    if tag not in tags:
        raise NotAskedError(f"{repository} has {len(tags)} tags, and {tag} is not one of them.")
    changes = []
    if tags[tag] != commit:
        note = "The tag was moved. See what changed before you build from it."
        changes.append(Change(file, "commit", commit, tags[tag], note))
    versions = {name: parsed for name in tags if (parsed := _version(name.removeprefix("v"))) is not None}
    newer = [
        name
        for name, parsed in versions.items()
        if parsed > Version(release.version) and not parsed.is_prerelease
    ]
    if newer:
        newest = max(newer, key=lambda name: versions[name])
        note = f"Try it with --source. Then copy patches/{tag}/ to patches/{newest}/ and name it in targets/."
        changes.append(Change(file, "tag", tag, newest, note))
    return changes


def newer_commits(api: Api, repository: str, file: str, release: Release) -> list[Change]:
    """Return the newest commit of the default branch, if it is not the pinned one.

    Args and raises: as `newer_releases`.
    """
    commit = release.commit
    branch = str(api.get(f"repos/{repository}")["default_branch"])
    compared = api.get(f"repos/{repository}/compare/{commit}...{branch}")
    ahead = int(compared["ahead_by"])
    if ahead == 0:
        return []
    # The API lists at most 250 commits, oldest first. If there are more, the newest is not among them.
    commits = compared.get("commits") or []
    last = commits[-1] if len(commits) == ahead else {}
    subject = str(last.get("commit", {}).get("message", "")).partition("\n")[0]
    count = f"{ahead} commit{'' if ahead == 1 else 's'} on {branch}"
    newest = f", newest: {subject}" if subject else ""
    note = f"{count}{newest}. They are not released. See whether they fix what the patches fix."
    return [Change(file, "commit", commit[:12], str(last.get("sha") or branch)[:12], note)]


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def newer_torch(web: Web, target: Target, file: str) -> list[Change]:
    """Return the newest torch on a target's index with a wheel for its Python, if it is newer.

    Raises:
        NotAskedError: The index does not answer, or lists no such torch.
    """
    url = f"{target.torch_index}/torch/"
    machine = target.machine.name
    versions = torch_versions(web.links(url), target.python, machine)
    if not versions:
        raise NotAskedError(f"{url} lists no torch for Python {target.python} on Linux {machine}.")
    newest = max(versions)
    pinned = Version(target.torch)
    if newest > pinned:
        return [Change(file, "torch", target.torch, str(newest))]
    if pinned not in versions:
        return [Change(file, "torch", target.torch, str(newest), "The index no longer has the pinned one.")]
    return []


def torch_versions(names: Iterable[str], python: str, machine: str) -> set[Version]:
    """Return the released versions, without local label, of a page's wheels for a Python on Linux."""
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
            and re.fullmatch(rf"(many)?linux\w*_{machine}", tag.platform)
            for tag in tags
        )
        if project == "torch" and fits and not version.is_prerelease:
            found.add(Version(version.public))
    return found


def toolchain_file(target: Target, targets_dir: Path) -> tuple[str, str]:
    """Return where a target's toolchain is pinned: the file, and what its keys begin with."""
    own = targets_dir / f"{target.name}.toml"
    if "toolchain" in tomllib.loads(own.read_text(encoding="utf-8")):
        return f"{targets_dir.name}/{own.name}", "toolchain."
    return f"{targets_dir.name}/{TOOLCHAINS}/{target.cuda_tag}.toml", ""


def newer_packages(target: Target, file: str, prefix: str) -> list[Change]:
    """Return newer versions of the compiler's packages, from the package index that uv is configured for.

    Raises:
        NotAskedError: uv can't say.
    """
    keys = {"packages": target.toolchain_packages, "runtime": target.toolchain_runtime}
    pins = []
    for key, text in ((key, text) for key, texts in keys.items() for text in texts):
        requirement = Requirement(text)
        pins.append((key, text, requirement.name, next(iter(requirement.specifier)).version))
    asked = sorted({wanted(name, pin, target.cuda) for _, _, name, pin in pins})
    found = newest_packages(asked, target.python, target.machine.name)
    changes = []
    for key, text, name, pin in pins:
        newest = found.get(name)
        if newest is None:
            raise NotAskedError(f"uv says nothing about {name}.")
        if Version(newest) > Version(pin):
            note = f"torch {target.torch} may require the old one; a build would say so."
            changes.append(
                Change(file, f"{prefix}{key}", text, text.replace(f"=={pin}", f"=={newest}"), note)
            )
    return changes


def wanted(name: str, pin: str, cuda: str) -> str:
    """Return what to ask for instead of a pin: any version, or one of the same CUDA if it pins CUDA."""
    return f"{name}=={cuda}.*" if f"{pin}.".startswith(f"{cuda}.") else name


def newest_packages(requirements: Sequence[str], python: str, machine: str) -> dict[str, str]:
    """Return the newest version of each package, as uv resolves it.

    Args:
        requirements: What to ask for.
        python: The Python that they are for.
        machine: The machine that they are for.

    Raises:
        NotAskedError: uv can't say.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--upgrade", "--no-deps", "--quiet"]
    command += ["--no-header", "--no-annotate", "--python-version", python]
    command += ["--python-platform", f"{machine}-manylinux_2_34"]
    try:
        done = run(command, text="\n".join(requirements) + "\n", timeout_seconds=RESOLVE_SECONDS)
    except CommandError as error:
        raise NotAskedError("uv: " + " ".join(error.message.split())) from None
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.output, re.MULTILINE))


def newer_archives(web: Web, target: Target, file: str, prefix: str) -> list[Change]:
    """Return how the pinned archives differ from NVIDIA's newest manifest for the same CUDA version.

    Raises:
        NotAskedError: There is no such manifest, or it lacks an archive.
    """
    base, found, _ = target.toolchain_archives[0].url.partition("/redist/")
    if not found:
        raise NotAskedError(f"{base} is not in a folder redist/, so it has no manifest.")
    folder = f"{base}{found}"
    manifest = newest_manifest(web.links(folder), target.cuda)
    if not manifest:
        raise NotAskedError(f"{folder} lists no manifest of CUDA {target.cuda}.")
    components = web.json(f"{folder}{manifest}")
    changes = []
    for archive in target.toolchain_archives:
        part = components.get(archive.name, {}).get(_PLATFORM)
        if not isinstance(part, dict) or not {"relative_path", "sha256", "size"} <= part.keys():
            raise NotAskedError(f"{manifest} does not list {archive.name} for {_PLATFORM}.")
        changes += compare_archive(archive, part, folder, file, f"{prefix}archives[{archive.name}]")
    return changes


def newest_manifest(names: Iterable[str], cuda: str) -> str:
    """Return the newest `redistrib_X.Y.Z.json` for a CUDA version among names; empty if there is none."""
    pattern = rf"redistrib_{re.escape(cuda)}\.(\d+)\.json"
    found = {int(match[1]): match[0] for name in names if (match := re.fullmatch(pattern, name))}
    return found[max(found)] if found else ""


def compare_archive(
    archive: Archive, part: Mapping[str, Any], folder: str, file: str, key: str
) -> list[Change]:
    """Return the keys of an archive that differ from a manifest's."""
    there = {
        "url": folder + str(part["relative_path"]),
        "sha256": str(part["sha256"]),
        "size_bytes": str(part["size"]),
    }
    here = {"url": archive.url, "sha256": archive.sha256, "size_bytes": str(archive.size_bytes)}
    note = ""
    if there["url"] == here["url"] and there != here:
        note = "The manifest has different bytes at the same address: find out why before you build."
    return [
        Change(file, f"{key}.{name}", here[name], there[name], note)
        for name in here
        if here[name] != there[name]
    ]
