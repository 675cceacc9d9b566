"""The command that makes or completes a GitHub release of the wheelhouse's wheels.

A draft is made first. Each file is uploaded, and its SHA-256 compared with the API's answer. The draft is
published last, so nobody sees a partial release. After a failure, the same command goes on where it stopped:
a file that is there with the right SHA-256 stays, and a partial upload is removed.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote

from github import UnknownObjectException
from github.GithubObject import NotSet
from github.GitRelease import GitRelease
from github.GitReleaseAsset import GitReleaseAsset
from github.Repository import Repository
from markupsafe import Markup

from builder.check import audit
from builder.publish import github_api
from builder.publish.entries import (
    METADATA_SUFFIX,
    SMOKETEST_SUFFIX,
    IndexEntry,
    find_wheels,
    newest_first,
    read_entry,
    read_metadata,
    read_sbom,
)
from builder.publish.index import TEMPLATES
from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import AuditError, ReleaseError, UsageError
from builder.util.files import ROOT, file_sha256
from builder.util.log import counted, say, step, warn
from builder.wheel.label import WheelLabel
from builder.wheel.sbom import Sbom

_PAUSES_SECONDS = (1, 2, 4, 8)  # between tries
_Result = TypeVar("_Result")


def main(argv: Sequence[str]) -> int:
    """Make or complete a release, and return 0."""
    options = _parser().parse_args(argv)
    token = github_api.token_from_environment()
    if token is None and not options.dry_run:
        remedy = "Make a token that may write the repository's contents, and set it for this command alone."
        raise UsageError("Neither GITHUB_TOKEN nor GH_TOKEN is set.", remedy)
    github = github_api.connect(options.api_url, token)
    paths = find_wheels(options.wheels, options.wheelhouse)
    entries = {path: read_entry(path) for path in paths}
    _refuse(entries.values(), options)
    with step(f"Auditing {counted(len(paths), 'wheel')}"):
        if audit.main([*map(str, paths)]) != 0:
            raise AuditError("A wheel failed the audit: nothing is released.", "See the table above.")
    notes = _notes(newest_first(entries.values()), [read_sbom(path) for path in paths], options)
    with TemporaryDirectory() as folder, github_api.github_errors():
        files = _gather(entries, Path(folder))
        remote = github.get_repo(options.repository)
        if options.dry_run:
            _dry_run(options, files, notes, remote if token else None)
            return 0
        try:
            _complete(options, files, notes, remote)
        except BaseException:
            warn(f"The release of {options.tag} may not be complete. Run again to complete it.")
            raise
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s release --", description="Make or complete a GitHub release of the wheels.")
    add = parser.add_argument
    add("wheels", nargs="*", metavar="WHEEL", help="default: all of the wheelhouse")
    add("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    add("--tag", required=True, help="the release's git tag")
    add("--target", metavar="COMMIT", help="make the tag at this commit, if it does not exist")
    name = os.environ.get("GITHUB_REPOSITORY")
    help_ = "OWNER/NAME (default: GITHUB_REPOSITORY)"
    add("--repository", type=repository, default=name, required=not name, help=help_)
    github_api.add_api_url(parser)
    help_ = "the package index's address, for the notes"
    add("--index-url", type=published_address, metavar="URL", help=help_)
    for flag, help_ in {
        "--dry-run": "print the steps and the notes, change nothing",
        "--replace": "replace files of this release with a different SHA-256, and published notes",
        "--allow-unverified": "release builds of a source that was not verified",
        "--allow-incomplete": "release wheels that lack architectures of their target",
        "--allow-failed-smoketest": "release wheels whose smoke test failed",
    }.items():
        add(flag, action="store_true", help=help_)
    return parser


def _refuse(entries: Iterable[IndexEntry], options: argparse.Namespace) -> None:
    """Refuse wheels that should not be published, all of them in one message."""
    reasons: dict[str, str] = {}
    for entry in entries:
        if not entry.verified and not options.allow_unverified:
            reasons[f"{entry.filename}: its source is not verified"] = "--allow-unverified"
        if not entry.complete and not options.allow_incomplete:
            reason = f"it holds only {', '.join(entry.architectures)} of its target's architectures"
            reasons[f"{entry.filename}: {reason}"] = "--allow-incomplete"
        if entry.smoke_test["outcome"] == "failed" and not options.allow_failed_smoketest:
            reason = f"its smoke test failed: {entry.smoke_test['detail']}"
            reasons[f"{entry.filename}: {reason}"] = "--allow-failed-smoketest"
    if reasons:
        remedy = f"Name the other wheels, or pass {', '.join(dict.fromkeys(reasons.values()))}."
        raise ReleaseError("These wheels should not be released:\n  " + "\n  ".join(reasons), remedy)


def _notes(entries: Sequence[IndexEntry], sboms: Sequence[Sbom], options: argparse.Namespace) -> str:
    """Return Markdown that says what a release holds, what it was made from, and how to check that.

    Without the package index's address, the notes say to install a wheel by its own.
    """
    patches = {
        patch.name.rpartition("/")[2]: patch.properties["summary"]
        for sbom in sboms
        for patch in sbom.of_kind("patch")
    }
    builds = set()
    for sbom in sboms:
        nvcc = next((tool.version for tool in sbom.of_kind("build-tool") if "nvcc" in tool.name), "")
        target = sbom.subject.properties["target"]
        builds.add((target, sbom.tool_version("torch"), nvcc, sbom.tool_version("g++")))
    markdown = TEMPLATES.overlay(autoescape=False, finalize=_escape_markdown)
    return markdown.get_template("notes.md").render(
        versions=", ".join(dict.fromkeys(entry.release for entry in entries)),
        machines=" and ".join(sorted({entry.label.machine for entry in entries}, reverse=True)),
        entries=entries,
        portable=[entry for entry in entries if entry.portable],
        basic=[entry for entry in entries if not entry.portable],
        sources={sbom.source.url or sbom.source.sha256: sbom.source for sbom in sboms}.values(),
        patches=patches,
        builds=sorted(builds),
        repository=options.repository,
        address=f"https://github.com/{options.repository}/releases/download/{quote(options.tag)}/",
        index_url=options.index_url,
    )


def _escape_markdown(value: object) -> object:
    """Return a text as one line in which nothing is Markdown or HTML."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return re.sub(r"[\\`*\[\]<>|~&#]|(?<!\w)@", r"\\\g<0>", " ".join(value.split()))


def _gather(entries: Mapping[Path, IndexEntry], folder: Path) -> dict[Path, str]:
    """Return the release's files, each with its SHA-256; those made for the release are in the folder.

    They are the wheels, their build and smoke-test reports, METADATA for the index, and last `SHA256SUMS`.
    """
    files: dict[Path, str] = {}
    for wheel, entry in entries.items():
        files[wheel] = entry.sha256  # of the bytes that were read before the audit
        reports = (wheel.with_name(wheel.name + suffix) for suffix in (".json", SMOKETEST_SUFFIX))
        files |= {report: file_sha256(report) for report in reports if report.is_file()}
        if entry.portable:
            metadata = folder / (wheel.name + METADATA_SUFFIX)
            metadata.write_bytes(read_metadata(wheel))
            files[metadata] = entry.metadata_sha256
    sums = folder / "SHA256SUMS"
    names = sorted((path.name, sha256) for path, sha256 in files.items())
    sums.write_text("".join(f"{sha256}  {name}\n" for name, sha256 in names))
    return {**files, sums: file_sha256(sums)}


def _complete(options: argparse.Namespace, files: Mapping[Path, str], notes: str, remote: Repository) -> None:
    """Make the release, or complete it."""
    release = _retried(lambda: _find(remote, options.tag, files) or _create(options, notes, remote))
    say(f"Release {options.tag}: {'a draft' if release.draft else 'published'}, {release.html_url}")
    _retried(lambda: _upload(release, files, replace=options.replace))
    if release.draft:
        release = release.update_release(options.tag, notes, draft=False)
        say(f"Published: {release.html_url}")
    elif options.replace:
        release.update_release(release.name or options.tag, notes, prerelease=release.prerelease)
        say("Replaced the notes.")
    else:
        say("The release is complete. Its notes stay as they are: --replace replaces them.")
    published = release.published_at.isoformat()
    say(f"For the index: --uploaded {published}")
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"published={published}\n")


def _retried(act: Callable[[], _Result]) -> _Result:
    """Return what a function returns that looks at what is there before it makes something new."""
    for pause_seconds in _PAUSES_SECONDS:
        try:
            with github_api.github_errors():
                return act()
        except github_api.TransientError as error:
            warn(f"{error.message} Trying again in {pause_seconds} s.")
            time.sleep(pause_seconds)
    return act()


def _find(remote: Repository, tag: str, files: Mapping[Path, str]) -> GitRelease | None:
    """Return the release of a tag, a published one before a draft; None if there is none.

    A release of another tag that has other content for one of these wheels is an error.
    """
    wheels = {_build(path.name): sha256 for path, sha256 in files.items() if path.suffix == ".whl"}
    releases = []
    for release in remote.get_releases():  # only the list of all releases shows drafts
        if release.tag_name == tag:
            releases.append(release)
        elif not release.draft:
            for asset in release.assets:
                sha256 = wheels.get(_build(asset.name)) if asset.name.endswith(".whl") else None
                if sha256 and asset.digest != f"sha256:{sha256}":
                    message = f"{release.html_url} has other content for this version: {asset.name}."
                    raise ReleaseError(
                        message, "pip and uv would not upgrade it. Raise the patches' revision."
                    )
    return min(releases, key=lambda release: (release.draft, release.id), default=None)


def _build(filename: str) -> tuple[str, ...]:
    """Return what tells a wheel from all others to pip and uv: its tag too, unless it is for every torch."""
    label = WheelLabel.parse(filename)
    python = "" if label.universal else label.python
    return label.distribution, label.version, label.machine, python, label.platform.partition("_")[0]


def _create(options: argparse.Namespace, notes: str, remote: Repository) -> GitRelease:
    """Make a draft, for a tag that exists, or that is to be made at a commit."""
    if not options.target:
        try:
            remote.get_git_ref(f"tags/{options.tag}").complete()
        except UnknownObjectException:
            remedy = "Push it first, or say with --target COMMIT where to make it."
            raise ReleaseError(f"The repository has no tag {options.tag}.", remedy) from None
    commit = options.target or NotSet
    return remote.create_git_release(options.tag, options.tag, notes, draft=True, target_commitish=commit)


def _upload(release: GitRelease, files: Mapping[Path, str], *, replace: bool) -> None:
    """Upload what the release lacks, then compare all of it with the files as the API lists it."""
    assets = {asset.name: asset for asset in release.get_assets()}
    actions = _plan(files, assets, replace=replace)
    for name in sorted(assets.keys() - {path.name for path in files}):
        warn(f"The release also has {name}, which is not one of these files: it stays.")
    uploads = [path for path, action in actions.items() if action != "keep"]
    with step(f"Uploading {len(uploads)} of {len(files)} files"):
        for path in uploads:
            if path.name in assets:
                assets[path.name].delete_asset()
            say(f"  sending: {path.name} ({path.stat().st_size / 1e6:.1f} MB)")
            kind = {".whl": "application/zip", ".json": "application/json"}.get(path.suffix, "text/plain")
            with path.open("rb") as file:
                release.upload_asset_from_memory(file, path.stat().st_size, path.name, kind)
    assets = {asset.name: asset for asset in release.get_assets()}
    for path, sha256 in files.items():
        if path.name not in assets or assets[path.name].digest != f"sha256:{sha256}":
            if path.name in assets:
                assets[path.name].delete_asset()
            raise github_api.TransientError(f"{path.name} did not arrive, or with a different SHA-256.")
    say(f"Verified {len(files)} files by SHA-256.")


def _plan(
    files: Mapping[Path, str], assets: Mapping[str, GitReleaseAsset], *, replace: bool
) -> dict[Path, str]:
    """Return what to do about each file: `keep`, `upload`, or `replace` what is there, if allowed."""
    actions, different = {}, []
    for path, sha256 in files.items():
        asset = assets.get(path.name)
        if asset is None:
            actions[path] = "upload"
        elif asset.digest == f"sha256:{sha256}":
            actions[path] = "keep"
        else:
            actions[path] = "replace"
            if asset.state == "uploaded":  # and not a partial one of an upload that failed
                different.append(f"{path.name}: the release has {asset.digest}, this is {sha256}")
    if different and not replace:
        message = "The release has files of these names with a different SHA-256:\n  " + "\n  ".join(
            different
        )
        remedy = "Release under another tag, or pass --replace: it breaks installs that are pinned by hash."
        raise ReleaseError(message, remedy)
    return actions


def _dry_run(
    options: argparse.Namespace, files: Mapping[Path, str], notes: str, remote: Repository | None
) -> None:
    """Print what would be done. With a token the release is looked at, but nothing is changed."""
    if remote is None:
        say("No token is set: this assumes that there is no release yet.")
    release = _find(remote, options.tag, files) if remote else None
    assets = {asset.name: asset for asset in release.get_assets()} if release else {}
    actions = _plan(files, assets, replace=options.replace)
    say(f"\nRelease {options.tag} of {options.repository} ({options.api_url.rstrip('/')})")
    if release is None:
        say("  create a draft" + (f", and the tag at {options.target}" if options.target else ""))
    else:
        say(f"  complete the {'draft' if release.draft else 'published release'} {release.html_url}")
    for path, action in actions.items():
        say(f"  {action} {path.name}\n      {path.stat().st_size} bytes, SHA-256 {files[path]}")
    say(f"  verify {len(files)} files by SHA-256, and publish\n\nNotes:\n\n{notes}")
