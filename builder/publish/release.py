"""The command that makes or completes a GitHub release of the wheelhouse's wheels."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from builder.publish import catalogue
from builder.publish.assets import Asset, RemoteAsset, gather, plan_assets
from builder.publish.github_release import GitHubRelease
from builder.publish.listed_wheel import ListedWheel
from builder.publish.notes import release_notes
from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import AuditError, ReleaseError, UsageError
from builder.util.github.api import API_URL, Api, token_from
from builder.util.limits import NOTES_CHARACTERS
from builder.util.log import say, step
from builder.util.paths import ROOT

Audit = Callable[[Sequence[Path]], int]


def main(
    argv: Sequence[str], *, audit: Audit | None = None, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Make or complete a release, and return 0.

    Args:
        argv: The command's arguments.
        audit: Checks wheels, and returns 0 if all are good; the project's own audit by default.
        sleep: Waits between attempts, in seconds.

    Raises:
        BuilderError: The release is not complete; running again goes on where it stopped.
    """
    options = _parser().parse_args(argv)
    if options.repository is None:
        raise UsageError(
            "The repository is not known.", "Give --repository OWNER/NAME, or set GITHUB_REPOSITORY."
        )
    token = token_from(os.environ)
    if token is None and not options.dry_run:
        raise UsageError(
            "Neither GITHUB_TOKEN nor GH_TOKEN is set.",
            "Make a token with write access to the repository's contents, and set it for this command alone.",
        )
    api = Api(options.api_url, token, sleep=sleep)
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
        if (audit or _project_audit)([wheel.path for wheel in wheels if wheel.path is not None]) != 0:
            raise AuditError("A wheel failed the audit: nothing is released.", "See the table above.")
    assets = gather(wheels)
    notes = release_notes(
        wheels, repository=options.repository, tag=options.tag, index_url=options.index_url or ""
    )
    if len(notes) > NOTES_CHARACTERS:
        raise ReleaseError(
            f"The notes have {len(notes)} characters, and the API takes {NOTES_CHARACTERS}.",
            "Make releases of fewer wheels.",
        )
    if options.dry_run:
        _dry_run(options, assets, notes, api)
        return 0
    release = GitHubRelease(
        api, options.repository, options.tag, target=options.target, replace=options.replace
    )
    release.complete(assets, notes)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s release --", description="Make or complete a GitHub release of the wheels.")
    parser.add_argument("wheels", nargs="*", metavar="WHEEL", help="default: all of the wheelhouse")
    parser.add_argument("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    parser.add_argument("--tag", required=True, type=_reference, help="the release's git tag")
    parser.add_argument(
        "--target",
        type=_reference,
        metavar="COMMIT",
        help="make the tag at this commit, if it does not exist",
    )
    parser.add_argument(
        "--repository",
        type=repository,
        default=os.environ.get("GITHUB_REPOSITORY") or None,
        metavar="OWNER/NAME",
        help="default: GITHUB_REPOSITORY",
    )
    parser.add_argument("--api-url", default=os.environ.get("GITHUB_API_URL") or API_URL, metavar="URL")
    parser.add_argument(
        "--index-url",
        type=published_address,
        metavar="URL",
        help="the package index's address, for the notes",
    )
    flags = {
        "--dry-run": "print the steps and the notes, change nothing",
        "--replace": "replace assets with a different SHA-256, and published notes",
        "--allow-unverified": "release builds of a source that was not verified",
        "--allow-incomplete": "release wheels that lack architectures of their target",
        "--allow-failed-smoketest": "release wheels whose smoke test failed",
    }
    for flag, help_ in flags.items():
        parser.add_argument(flag, action="store_true", help=help_)
    return parser


def _reference(text: str) -> str:
    if re.fullmatch(r"(?!.*(\.\.|//|/$))\w[\w.+/-]{0,199}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a tag, branch or commit")
    return text


def refuse(
    wheels: Sequence[ListedWheel], *, allow_unverified: bool, allow_incomplete: bool, allow_failed: bool
) -> None:
    """Refuse wheels that should not be published, all of them in one message.

    Raises:
        ReleaseError: Names each wheel and why.
    """
    found: list[tuple[str, str]] = []
    for wheel in wheels:
        if not wheel.verified and not allow_unverified:
            why = _source_of(wheel)
            found.append((f"{wheel.filename}: its source is not verified: {why}", "--allow-unverified"))
        if not wheel.complete and not allow_incomplete:
            held = ", ".join(wheel.architectures) or "some"
            found.append(
                (
                    f"{wheel.filename}: it holds only {held} of its target's architectures",
                    "--allow-incomplete",
                )
            )
        if wheel.smoke_test.outcome == "failed" and not allow_failed:
            detail = wheel.smoke_test.detail
            found.append((f"{wheel.filename}: its smoke test failed: {detail}", "--allow-failed-smoketest"))
    if found:
        options = ", ".join(dict.fromkeys(option for _, option in found))
        raise ReleaseError(
            "These wheels should not be released:\n  " + "\n  ".join(text for text, _ in found),
            f"Name the other wheels, or pass {options}.",
        )


def _source_of(wheel: ListedWheel) -> str:
    source = wheel.recorded("source")
    if not source:
        return "its record lacks it" if wheel.record else "it has no record"
    if source.get("verified") is True:
        return "its SBOM does not say what its record says"
    return f"{source.get('kind')} {source.get('location')}"


def _project_audit(paths: Sequence[Path]) -> int:
    from builder.check import audit  # noqa: PLC0415 - it reads ELF files; --help needs none of that

    return int(audit.main([str(path) for path in paths]))


def _dry_run(options: argparse.Namespace, assets: Sequence[Asset], notes: str, api: Api) -> None:
    """Print what would be done. With a token the release is looked at, but nothing is changed."""
    there = None
    remotes: list[RemoteAsset] = []
    if not api.has_token:
        say("No token is set: this assumes that there is no release yet.")
    else:
        release = GitHubRelease(api, options.repository, options.tag)
        there = release.find()
        remotes = release.assets(there, assets) if there else []
    steps = plan_assets(assets, remotes, replace=options.replace)
    say(f"\nRelease {options.tag} of {options.repository} ({options.api_url})")
    if there is None:
        say("  create a draft" + (f", and the tag at {options.target}" if options.target else ""))
    else:
        say(f"  complete the {'draft' if there.draft else 'published release'} {there.page}")
    words = {"complete": "remove the partial one and upload", "replace": "remove the other one and upload"}
    for one in steps:
        say(f"  {words.get(one.action, one.action)} {one.asset.name}")
        say(f"      {one.asset.size_bytes} bytes, SHA-256 {one.asset.sha256}")
    say(f"  verify {len(steps)} files by size and SHA-256")
    if there is None or there.draft:
        say("  publish")
    say("\nNotes:\n")
    say(notes)
