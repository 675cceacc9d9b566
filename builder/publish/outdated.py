"""The command that lists what is newer than what this checkout pins.

Each source is asked and reported separately, and one that did not answer is never taken for up to date. Only
versions for a target's own CUDA version count (13.0.2 to 13.0.3): a newer CUDA version is another target.

Exit status: 0 if every source answered and nothing is newer, 20 if something is newer (even if another source
did not answer), 21 if nothing newer is known but some source did not answer.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from builder.publish import newer
from builder.publish.newer import Change
from builder.publish.web import NotAskedError, Web
from builder.target.targets import TARGETS_DIR, Target, load_targets
from builder.target.upstream import FILE_NAME, PATCHES_DIR, load_release
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, UsageError
from builder.util.github.api import API_URL, Api, token_from
from builder.util.log import say

UP_TO_DATE = 0
NEWER = 20
NOT_ASKED = 21

KINDS = ("releases", "commits", "torch", "packages", "archives")

_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What a source answered.

    Attributes:
        kind: One of `KINDS`.
        source: What was asked, in words.
        changes: What it has that is newer.
        problem: Why there is no answer, or empty.
    """

    kind: str
    source: str
    changes: tuple[Change, ...] = ()
    problem: str = ""


def main(argv: Sequence[str]) -> int:
    """Ask every source, print what to change, and return 0, 20 or 21 (see the module).

    Args:
        argv: The command's arguments.

    Raises:
        BuilderError: A target's file is wrong.
    """
    options = _parser().parse_args(argv)
    targets = load_targets(options.targets, options.patches)
    web = Web(dict(options.mirror))
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
    """Return the command's exit status: see the module."""
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
        description="List what is newer than what this checkout pins.",
        epilog="Exit status: 0 nothing is newer, 20 something is newer, 21 some source did not answer.",
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
        help="omit a kind of source; may be given more than once",
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
    """Yield every source once: its kind, its name, and how to ask it."""
    for upstream in sorted({target.upstream for target in targets.values()}):
        release = load_release(patches_dir / upstream)
        file = f"{patches_dir.name}/{upstream}/{FILE_NAME}"
        repository = newer.repository_of(release.url)
        if not repository:
            raise UsageError(
                f"{file}: url: {release.url} is not GitHub's.", "Newer releases can be listed only there."
            )
        releases = f"SageAttention releases ({repository})"
        yield "releases", releases, partial(newer.newer_releases, api, repository, file, release)
        commits = f"SageAttention commits since {release.tag} ({repository})"
        yield "commits", commits, partial(newer.newer_commits, api, repository, file, release)
    for target in targets.values():
        file = f"{targets_dir.name}/{target.name}.toml"
        source = f"torch for {target.name} ({target.torch_index})"
        yield "torch", source, partial(newer.newer_torch, web, target, file)
    asked = set()
    for target in targets.values():
        file, prefix = newer.toolchain_file(target, targets_dir)
        if (file, target.machine) in asked:
            continue
        asked.add((file, target.machine))
        if target.toolchain_packages:
            source = f"CUDA {target.cuda} packages for {target.machine.name} (the configured package index)"
            yield "packages", source, partial(newer.newer_packages, target, file, prefix)
        if target.toolchain_archives:
            source = f"CUDA {target.cuda} archives ({urlsplit(target.toolchain_archives[0].url).netloc})"
            yield "archives", source, partial(newer.newer_archives, web, target, file, prefix)


def _ask(kind: str, source: str, ask: Question) -> Answer:
    try:
        return Answer(kind, source, changes=tuple(ask()))
    except NotAskedError as error:
        return Answer(kind, source, problem=str(error))
    except BuilderError as error:
        return Answer(kind, source, problem=error.message)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return Answer(kind, source, problem=f"Its answer is not of the expected form: {error!r}.")
