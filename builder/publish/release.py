"""A GitHub release of the wheelhouse's wheels, made or completed.

The way of a release: the wheels are checked, then a draft is made, every asset is uploaded and compared by
size and SHA-256 with what the API says it has, and last of all the draft is published. So nobody ever sees a
half release, and a run that broke off anywhere is completed by the same command again: what is there with the
right bytes stays, what was half uploaded goes, and only what lacks is sent.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from builder.publish import catalogue
from builder.publish.catalogue import RECORD_SUFFIX, SMOKETEST_SUFFIX, Wheel
from builder.publish.notes import release_notes
from builder.util.arguments import Parser
from builder.util.digest import file_sha256
from builder.util.errors import AuditError, ReleaseError, UsageError
from builder.util.github import API_URL, Api, TransientError, token_from
from builder.util.log import say, step, warn
from builder.util.paths import ROOT

SUMS = "SHA256SUMS"
METADATA_SUFFIX = ".metadata"
# "Each file included in a release must be under 2 GiB" and "up to 1000 release assets" (GitHub Docs, "About
# releases", storage and bandwidth quotas). The notes' limit is what the API answers to a longer body.
LARGEST_ASSET_BYTES = 2 * 1024**3 - 1
MOST_ASSETS = 1000
LONGEST_NOTES = 125_000

Audit = Callable[[Sequence[Path]], int]


@dataclass(frozen=True)
class Asset:
    """A file of the release.

    Attributes:
        name: Its name there.
        size_bytes: Its size.
        sha256: Its digest.
        content_type: Its media type.
        path: Where its bytes are; None where they are in `content`.
        content: Its bytes where it is made here.
    """

    name: str
    size_bytes: int
    sha256: str
    content_type: str
    path: Path | None = None
    content: bytes = b""

    @classmethod
    def of_file(cls, path: Path, content_type: str) -> Asset:
        """A file as it is."""
        return cls(path.name, path.stat().st_size, file_sha256(path), content_type, path)

    @classmethod
    def of_bytes(cls, name: str, content: bytes, content_type: str) -> Asset:
        """A file that is made here."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest(), content_type, None, content)

    def open(self) -> BinaryIO:
        """Its bytes, to be read."""
        return self.path.open("rb") if self.path else io.BytesIO(self.content)


@dataclass(frozen=True)
class Remote:
    """An asset that the release has.

    Attributes:
        id: The API's number for it.
        name: Its name.
        size_bytes: Its size.
        sha256: Its digest; None where the API does not say.
        whole: Whether its upload came to an end.
    """

    id: int
    name: str
    size_bytes: int
    sha256: str | None
    whole: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Remote:
        """Read what the API says of an asset."""
        algorithm, _, digest = str(values.get("digest") or "").partition(":")
        return cls(
            id=int(values["id"]),
            name=str(values["name"]),
            size_bytes=int(values.get("size") or 0),
            sha256=digest.lower() if algorithm == "sha256" and digest else None,
            whole=values.get("state") == "uploaded",
        )


@dataclass(frozen=True)
class Step:
    """What to do about one asset.

    Attributes:
        action: `keep`, `upload`, `complete` (a half asset goes first) or `replace` (another one goes first).
        asset: The file.
        remote: What the release has under its name.
    """

    action: str
    asset: Asset
    remote: Remote | None = None


def main(
    argv: Sequence[str], *, audit: Audit | None = None, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Make or complete a release.

    Args:
        argv: The command's arguments.
        audit: Checks wheels, and returns 0 where all are good; the project's own audit by default.
        sleep: How to wait between tries, in seconds.

    Returns:
        0.

    Raises:
        BuilderError: The release is not complete; running again goes on where it stopped.
    """
    options = _parser().parse_args(argv)
    repository = _repository(options.repository)
    wheels = [
        catalogue.read_wheel(path) for path in catalogue.find_wheels(options.wheels, options.wheelhouse)
    ]
    refuse(
        wheels,
        allow_unverified=options.allow_unverified,
        allow_incomplete=options.allow_incomplete,
        allow_failed=options.allow_failed_smoketest,
    )
    with step(f"Auditing {len(wheels)} wheels"):
        _audit(wheels, audit or _project_audit)
    assets = gather(wheels)
    notes = release_notes(wheels, repository=repository, tag=options.tag, index_url=options.index_url or "")
    if len(notes) > LONGEST_NOTES:
        raise ReleaseError(
            f"The notes have {len(notes)} characters, and the API takes {LONGEST_NOTES}.",
            "Make releases of fewer wheels.",
        )
    token = token_from(os.environ)
    if options.dry_run:
        _dry_run(options, repository, assets, notes, token)
        return 0
    if token is None:
        raise UsageError(
            "Neither GITHUB_TOKEN nor GH_TOKEN is set.",
            "Make a token with write access to the repository's contents, and set it for this command alone.",
        )
    api = Api(options.api_url, token, sleep=sleep)
    _Release(api, repository, options.tag, target=options.target, replace=options.replace).run(assets, notes)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s release --", description="Make or complete a GitHub release of the wheels.")
    parser.add_argument("wheels", nargs="*", metavar="WHEEL", help="default: all of the wheelhouse")
    parser.add_argument("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    parser.add_argument("--tag", required=True, help="the release's git tag")
    parser.add_argument(
        "--target", metavar="COMMIT", help="make the tag at this commit, where it is not there"
    )
    parser.add_argument(
        "--repository",
        default=os.environ.get("GITHUB_REPOSITORY"),
        metavar="OWNER/NAME",
        help="default: GITHUB_REPOSITORY",
    )
    parser.add_argument("--api-url", default=os.environ.get("GITHUB_API_URL") or API_URL, metavar="URL")
    parser.add_argument("--index-url", metavar="URL", help="where the package index is, for the notes")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the steps and the notes, change nothing"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace assets that have other bytes, and published notes"
    )
    parser.add_argument(
        "--allow-unverified", action="store_true", help="release builds of a source that was not verified"
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="release wheels that lack architectures of their target",
    )
    parser.add_argument(
        "--allow-failed-smoketest", action="store_true", help="release wheels whose smoke test failed"
    )
    return parser


def _repository(text: str | None) -> str:
    if not text or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise UsageError(
            f"{text!r} is no repository." if text else "The repository is not known.",
            "Give --repository OWNER/NAME, or set GITHUB_REPOSITORY.",
        )
    return text


# --- what may be released, and what belongs to it ---------------------------------------------------


def refuse(
    wheels: Sequence[Wheel], *, allow_unverified: bool, allow_incomplete: bool, allow_failed: bool
) -> None:
    """Refuse wheels that should not be published, all of them in one message.

    Raises:
        ReleaseError: Names each wheel and why.
    """
    found: list[tuple[str, str]] = []
    for wheel in wheels:
        if not wheel.verified and not allow_unverified:
            what = _source_of(wheel) if wheel.record else "it has no record"
            found.append((f"{wheel.filename}: its source is not verified: {what}", "--allow-unverified"))
        if not wheel.complete and not allow_incomplete:
            held = ", ".join(wheel.architectures) or "some"
            found.append(
                (f"{wheel.filename}: holds {held} only of its target's architectures", "--allow-incomplete")
            )
        if wheel.smoke_test.outcome == "failed" and not allow_failed:
            detail = wheel.smoke_test.detail
            found.append((f"{wheel.filename}: its smoke test failed: {detail}", "--allow-failed-smoketest"))
    if found:
        options = ", ".join(dict.fromkeys(option for _, option in found))
        raise ReleaseError(
            "Not to be released:\n  " + "\n  ".join(text for text, _ in found),
            f"Name the other wheels, or say so with {options}.",
        )


def _source_of(wheel: Wheel) -> str:
    source = wheel.record.get("source")
    return (
        f"{source.get('kind')} {source.get('location')}"
        if isinstance(source, dict)
        else "its record lacks it"
    )


def _audit(wheels: Sequence[Wheel], audit: Audit) -> None:
    if audit([wheel.path for wheel in wheels if wheel.path is not None]) != 0:
        raise AuditError("A wheel failed the audit: nothing is released.", "See the table above.")


def _project_audit(paths: Sequence[Path]) -> int:
    from builder.check import audit  # noqa: PLC0415 - it reads ELF files; a dry look at --help needs none of that

    return int(audit.main([str(path) for path in paths]))


def gather(wheels: Sequence[Wheel]) -> list[Asset]:
    """The release's files: wheels, records, smoke-test reports, METADATA for the index, digests of all.

    `SHA256SUMS` is the last: while it is missing, the release is not whole.

    Raises:
        ReleaseError: A file is too large for a release, or there are too many.
    """
    assets: list[Asset] = []
    for wheel in wheels:
        if wheel.path is None:
            continue
        beside = [wheel.path.with_name(wheel.filename + end) for end in (RECORD_SUFFIX, SMOKETEST_SUFFIX)]
        _refuse_too_large([wheel.path, *beside])
        assets.append(Asset.of_file(wheel.path, "application/zip"))
        assets += [Asset.of_file(path, "application/json") for path in beside if path.is_file()]
        if wheel.portable:
            metadata = catalogue.read_metadata(wheel.path)
            assets.append(
                Asset.of_bytes(wheel.filename + METADATA_SUFFIX, metadata, "text/plain; charset=utf-8")
            )
    sums = "".join(
        f"{asset.sha256}  {asset.name}\n" for asset in sorted(assets, key=lambda asset: asset.name)
    )
    assets.append(Asset.of_bytes(SUMS, sums.encode(), "text/plain; charset=utf-8"))
    if len(assets) > MOST_ASSETS:
        raise ReleaseError(
            f"A release holds {MOST_ASSETS} files, and these are {len(assets)}.",
            "Make more than one release.",
        )
    return assets


def _refuse_too_large(paths: Sequence[Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    found = [f"{name} ({size} bytes)" for name, size in sizes.items() if size > LARGEST_ASSET_BYTES]
    if found:
        raise ReleaseError(
            f"A release's files must be under 2 GiB: {', '.join(found)}.",
            "A wheel of this project is about 100 times smaller: see what it holds with `nox -s audit`.",
        )


def plan(assets: Sequence[Asset], remotes: Sequence[Remote], *, replace: bool) -> list[Step]:
    """What to do about each file, given what the release has.

    Args:
        assets: The files.
        remotes: What is there; whole ones of a file's name and size with their digest.
        replace: Whether a file may replace one of other bytes.

    Raises:
        ReleaseError: Files of other bytes are there, and `replace` does not allow for it; names all.
    """
    there = {remote.name: remote for remote in remotes}
    steps = []
    different = []
    for asset in assets:
        remote = there.get(asset.name)
        if remote is None:
            steps.append(Step("upload", asset))
        elif not remote.whole:
            steps.append(Step("complete", asset, remote))
        elif _same(asset, remote):
            steps.append(Step("keep", asset, remote))
        else:
            steps.append(Step("replace", asset, remote))
            different.append(f"{asset.name}: there {remote.sha256}, here {asset.sha256}")
    if different and not replace:
        raise ReleaseError(
            "The release has files of these names with other bytes:\n  " + "\n  ".join(different),
            "Release under another tag, or say --replace, which breaks installs that are pinned by hash.",
        )
    return steps


def _same(asset: Asset, remote: Remote) -> bool:
    return remote.size_bytes == asset.size_bytes and remote.sha256 == asset.sha256


# --- doing it ---------------------------------------------------------------------------------------


class _Release:
    """One release of one repository."""

    def __init__(self, api: Api, repository: str, tag: str, *, target: str | None, replace: bool) -> None:
        self._api = api
        self._base = f"repos/{repository}"
        self._tag = tag
        self._target = target
        self._replace = replace

    def run(self, assets: Sequence[Asset], notes: str) -> None:
        """Make it, or complete it."""
        release = self.find()
        if release is None or release["draft"]:
            self._need_tag()
        release = release or self._create(notes)
        where = f"{self._base}/releases/{release['id']}"
        say(f"Release {self._tag}: {'a draft' if release['draft'] else 'published'}, {release['html_url']}")
        steps = plan(assets, self.look(release, assets), replace=self._replace)
        self._tell_of_others(release, assets)
        with step(f"Uploading {sum(one.action != 'keep' for one in steps)} of {len(steps)} files"):
            for one in steps:
                self._carry_out(one, release)
        self._verify(release, assets)
        if release["draft"]:
            release = self._api.patch(where, {"name": self._tag, "body": notes, "draft": False})
            if release["draft"]:
                raise ReleaseError(
                    f"{release['html_url']} is still a draft.", "Publish it by hand, or run again."
                )
            say(f"Published: {release['html_url']}")
        elif (release.get("body") or "").replace("\r\n", "\n").strip() != notes.strip():
            if self._replace:
                self._api.patch(where, {"body": notes})
                say("Replaced the notes.")
            else:
                warn("The published notes differ from those of these wheels; --replace replaces them.")
        else:
            say("The release is complete.")

    def find(self) -> dict[str, Any] | None:
        """The release of the tag, a draft or a published one: only the list of all shows drafts."""
        found = [item for item in self._api.list(f"{self._base}/releases") if item["tag_name"] == self._tag]
        found.sort(key=lambda item: (bool(item["draft"]), int(item["id"])))
        for other in found[1:]:
            warn(f"There is another release of {self._tag}, which is left alone: {other['html_url']}")
        first: dict[str, Any] | None = found[0] if found else None
        return first

    def look(self, release: Mapping[str, Any], assets: Sequence[Asset]) -> list[Remote]:
        """What the release has; a digest that the API lacks is found out by downloading."""
        wanted = {asset.name: asset for asset in assets}
        remotes = []
        for values in self._api.list(f"{self._base}/releases/{release['id']}/assets"):
            remote = Remote.of(values)
            asset = wanted.get(remote.name)
            if asset and remote.whole and remote.sha256 is None and remote.size_bytes == asset.size_bytes:
                remote = self._with_digest(remote)
            remotes.append(remote)
        return remotes

    def _with_digest(self, remote: Remote) -> Remote:
        say(f"  the API gives no digest of {remote.name}: downloading it")
        digest = self._api.sha256_of(f"{self._base}/releases/assets/{remote.id}")
        return Remote(remote.id, remote.name, remote.size_bytes, digest, remote.whole)

    def _need_tag(self) -> None:
        if self._target is None and self._api.find(f"{self._base}/git/ref/tags/{quote(self._tag)}") is None:
            raise ReleaseError(
                f"The repository has no tag {self._tag}.",
                "Push it first, or say with --target COMMIT where to make it.",
            )

    def _create(self, notes: str) -> dict[str, Any]:
        values = {"tag_name": self._tag, "name": self._tag, "body": notes, "draft": True}
        if self._target:
            values["target_commitish"] = self._target
        attempt = 1
        while True:
            try:
                made: dict[str, Any] = self._api.post_once(f"{self._base}/releases", values)
            except TransientError as error:
                self._api.wait(attempt, error)
                attempt += 1
                # It may have been made all the same: a second one would be a second draft.
                there = self.find()
                if there is not None:
                    return there
            else:
                return made

    def _carry_out(self, one: Step, release: Mapping[str, Any]) -> None:
        asset = one.asset
        if one.action == "keep":
            say(f"  there:    {asset.name}")
            return
        if one.remote is not None:
            say(
                f"  removing: {asset.name} ({'half uploaded' if one.action == 'complete' else 'other bytes'})"
            )
            self._remove(one.remote)
        say(f"  sending:  {asset.name} ({catalogue.human_size(asset.size_bytes)})")
        attempt = 1
        while True:
            try:
                self._send(asset, release)
            except TransientError as error:
                self._api.wait(attempt, error)
                attempt += 1
                if self._arrived(asset, release):
                    return
            else:
                return

    def _send(self, asset: Asset, release: Mapping[str, Any]) -> None:
        """Upload once, and compare what arrived; an asset of other bytes does not stay."""
        with asset.open() as content:
            values = self._api.upload_once(
                str(release["upload_url"]), asset.name, content, asset.size_bytes, asset.content_type
            )
        remote = Remote.of(values)
        if remote.name != asset.name:
            self._remove(remote)
            raise ReleaseError(
                f"GitHub changes the name {asset.name} to {remote.name}: the index could not find it."
            )
        if remote.whole and remote.sha256 is None and remote.size_bytes == asset.size_bytes:
            remote = self._with_digest(remote)
        if not remote.whole or not _same(asset, remote):
            self._remove(remote)
            raise TransientError(
                f"{asset.name}: {remote.size_bytes} bytes with SHA-256 {remote.sha256} arrived, "
                f"{asset.size_bytes} with {asset.sha256} were sent."
            )

    def _arrived(self, asset: Asset, release: Mapping[str, Any]) -> bool:
        """Whether a failed upload came through all the same; a half one is removed."""
        for remote in self.look(release, [asset]):
            if remote.name != asset.name:
                continue
            if remote.whole and _same(asset, remote):
                return True
            self._remove(remote)
        return False

    def _remove(self, remote: Remote) -> None:
        self._api.delete(f"{self._base}/releases/assets/{remote.id}")

    def _verify(self, release: Mapping[str, Any], assets: Sequence[Asset]) -> None:
        """Compare the whole release once more with the files, as the API lists it now."""
        there = {remote.name: remote for remote in self.look(release, assets)}
        wrong = [
            asset.name
            for asset in assets
            if asset.name not in there or not there[asset.name].whole or not _same(asset, there[asset.name])
        ]
        if wrong:
            raise ReleaseError(
                f"The release lacks these files, or has them with other bytes: {', '.join(wrong)}.",
                "Nothing was published. Run the same command again.",
            )
        say(f"Verified {len(assets)} files by size and SHA-256.")

    def _tell_of_others(self, release: Mapping[str, Any], assets: Sequence[Asset]) -> None:
        wanted = {asset.name for asset in assets}
        for values in self._api.list(f"{self._base}/releases/{release['id']}/assets"):
            if values["name"] not in wanted:
                warn(
                    f"The release also has {values['name']}, which is none of these files: it is left alone."
                )


def _dry_run(
    options: argparse.Namespace, repository: str, assets: Sequence[Asset], notes: str, token: str | None
) -> None:
    """Print what would be done. With a token the release is looked at, but nothing is changed."""
    release = None
    remotes: list[Remote] = []
    if token is None:
        say("No token is set: taken that there is no release yet.")
    else:
        look = _Release(Api(options.api_url, token), repository, options.tag, target=None, replace=False)
        release = look.find()
        remotes = look.look(release, assets) if release else []
    steps = plan(assets, remotes, replace=options.replace)
    say(f"\nRelease {options.tag} of {repository} ({options.api_url})")
    if release is None:
        say("  create a draft" + (f", and the tag at {options.target}" if options.target else ""))
    else:
        say(f"  complete the {'draft' if release['draft'] else 'published release'} {release['html_url']}")
    for one in steps:
        what = {"complete": "remove the half one and upload", "replace": "remove the other one and upload"}
        say(f"  {what.get(one.action, one.action)} {one.asset.name}")
        say(f"      {one.asset.size_bytes} bytes, SHA-256 {one.asset.sha256}")
    say(f"  verify {len(steps)} files by size and SHA-256")
    if release is None or release["draft"]:
        say("  publish")
    say("\nNotes:\n")
    say(notes)
