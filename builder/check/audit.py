"""Checks a finished wheel, this project's or anybody's: what it says of itself against what it holds.

The checks themselves are in `audit_checks`. A wheel with an error fails the audit; breaking one of this
project's own rules is an error in this project's wheels, and a warning in others'.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.check.audit_checks import (
    CHECKS,
    ERROR,
    HOUSE_RULE,
    NOTE,
    WARNING,
    Subject,
    stable_torch_symbols,
    stem,
)
from builder.finish.provenance import provenance_of
from builder.target.targets import Target, load_targets
from builder.util.arguments import Parser
from builder.util.errors import AuditError, RepairError, UsageError
from builder.util.log import say
from builder.util.paths import ROOT
from builder.wheel.fatbin import cubin_architectures
from builder.wheel.libraries import SYSTEM, owner_of
from builder.wheel.manylinux import reached_tag
from builder.wheel.wheelfile import Wheel, WheelError

LARGEST_WHEEL_BYTES = 60 * 10**6

# Checks that a wheel of the unpatched release is known to fail; `--no-patches` builds waive them.
UNPATCHED = frozenset({"requirement", "version", "paths"})


@dataclass(frozen=True)
class Finding:
    """One thing found: its level (`error`, `warning`, `note`), the check, and a sentence."""

    level: str
    check: str
    message: str


@dataclass(frozen=True)
class Facts:
    """What a wheel is, as far as it could be read.

    Attributes:
        size_bytes: Of the file.
        unpacked_bytes: Of its members.
        reached_tag: The oldest manylinux tag that its symbols fit; empty where none.
        architectures: Name of each library with GPU code -> its cubins' architectures.
        torch_requirement: From METADATA; empty without.
        needs: SONAME of each library that is not in the wheel -> who brings it.
        torch_symbols: Symbols of torch's stable C interface that it takes, sorted.
        unstable_symbols: How many symbols of libtorch's C++ interface it takes.
    """

    size_bytes: int
    unpacked_bytes: int
    reached_tag: str
    architectures: Mapping[str, tuple[str, ...]]
    torch_requirement: str
    needs: Mapping[str, str]
    torch_symbols: tuple[str, ...]
    unstable_symbols: int


@dataclass(frozen=True)
class Report:
    """The audit of one wheel.

    Attributes:
        path: The wheel.
        findings: In the order of the checks.
        facts: None where the file could not be read as a wheel.
        checks: Names of the checks that ran.
    """

    path: Path
    findings: tuple[Finding, ...]
    facts: Facts | None
    checks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not any(finding.level == ERROR for finding in self.findings)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return not self.passed

    def raise_if_failed(self) -> None:
        """Stop a build whose wheel did not pass.

        Raises:
            AuditError: Names every error.
        """
        errors = [finding for finding in self.findings if finding.level == ERROR]
        if errors:
            lines = "".join(f"\n    {finding.check}: {finding.message}" for finding in errors)
            raise AuditError(f"{self.path.name} failed its audit:{lines}")


def audit_wheel(
    path: Path,
    *,
    expect: Target | None = None,
    house_rules: bool | None = None,
    waive: Collection[str] = (),
    size_limit_bytes: int = LARGEST_WHEEL_BYTES,
) -> Report:
    """Check a wheel.

    Args:
        path: The wheel.
        expect: The target that it should be of; None takes what it says of itself.
        house_rules: Whether breaking this project's own rules is an error. None: it is, where the wheel
            has an SBOM of this project that names patches.
        waive: Names of checks whose errors count as warnings; `UNPATCHED` for `--no-patches` builds.
        size_limit_bytes: What a wheel may weigh by the house rules.

    Returns:
        The report. A file that is no wheel, or a damaged one, gives a report with that as its error.

    Raises:
        UsageError: `waive` has a name that is no check's.
    """
    if unknown := set(waive) - set(CHECKS):
        raise UsageError(f"No check {', '.join(sorted(unknown))}.", f"Checks: {', '.join(CHECKS)}.")
    findings: list[Finding] = []
    ran: list[str] = []
    try:
        with Wheel(path) as wheel:
            subject = Subject(wheel, expect, size_limit_bytes)
            if house_rules is None:
                house_rules = any(part.kind == "patch" for part in subject.materials)
            for name, check in CHECKS.items():
                ran.append(name)
                try:
                    found = list(check(subject))
                except (AuditError, RepairError) as error:
                    found = [(ERROR, error.message)]
                findings += [
                    Finding(_level(level, name, house_rules, waive), name, text) for level, text in found
                ]
            facts = _facts(subject)
    except WheelError as error:
        return Report(path, (Finding(ERROR, "record", error.message),), None, ("record",))
    return Report(path, tuple(findings), facts, tuple(ran))


def _level(level: str, check: str, house_rules: bool, waive: Collection[str]) -> str:
    if level == HOUSE_RULE:
        level = ERROR if house_rules else WARNING
    return WARNING if level == ERROR and check in waive else level


def _facts(subject: Subject) -> Facts:
    needs: dict[str, str] = {}
    for library in subject.libraries.values():
        for soname in library.needed:
            owner = owner_of(soname, subject.system_libraries)
            if soname not in subject.inside and owner is not SYSTEM:
                needs[soname] = owner.name if owner else "nobody"
    symbols = {name for library in subject.libraries.values() for name in stable_torch_symbols(library)}
    return Facts(
        size_bytes=subject.wheel.path.stat().st_size,
        unpacked_bytes=sum(part.size_bytes for part in subject.contents.values()),
        reached_tag=reached_tag(subject.libraries.values()),
        architectures={
            stem(name): tuple(map(str, cubin_architectures(part.codes)))
            for name, part in sorted(subject.extensions.items())
        },
        torch_requirement=str(subject.torch or ""),
        needs=dict(sorted(needs.items())),
        torch_symbols=tuple(sorted(symbols)),
        unstable_symbols=sum(map(len, subject.unstable.values())),
    )


def table(reports: Iterable[Report], *, notes: bool = False) -> str:
    """The reports as text: a line for each wheel, one for each check that found something.

    Args:
        reports: What to show.
        notes: Show findings of the level `note` too, and each check that found nothing.
    """
    return "\n\n".join("\n".join(_rows(report, notes)) for report in reports)


def _rows(report: Report, notes: bool) -> Iterator[str]:
    yield f"{'PASS' if report.passed else 'FAIL'}  {report.path.name}"
    facts = report.facts
    if facts is not None:
        installed = f"{facts.unpacked_bytes / 1e6:.1f} MB installed"
        yield f"      size           {facts.size_bytes / 1e6:.1f} MB, {installed}"
        yield f"      symbols        fit {facts.reached_tag or 'no manylinux tag'}"
        yield f"      torch          {facts.torch_requirement or 'not required'}; {_interface(facts)}"
        for name, architectures in facts.architectures.items():
            yield f"      {name:<14} {' '.join(architectures) or 'no GPU code'}"
        brought = [f"{soname} ({owner})" for soname, owner in facts.needs.items()]
        yield f"      needs          {', '.join(brought) or 'nothing but the system'}"
    for check in report.checks:
        found = [finding for finding in report.findings if finding.check == check]
        shown = [finding for finding in found if notes or finding.level != NOTE]
        for finding in shown:
            yield f"  {finding.level:<8} {check:<14} {finding.message}"
        if not shown and notes:
            yield f"  ok       {check}"


def _interface(facts: Facts) -> str:
    if facts.unstable_symbols:
        return f"{facts.unstable_symbols} symbols of libtorch's C++ interface"
    return f"{len(facts.torch_symbols)} symbols of torch's stable interface"


def target_of(path: Path, targets: Iterable[Target]) -> Target | None:
    """The target that a wheel of this project is of, by its file name; None where none fits."""
    try:
        with Wheel(path) as wheel:
            told = provenance_of(wheel).get("target")
    except (WheelError, ValueError):
        return None
    return next((target for target in targets if target.name == told), None)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m builder audit [PATH...]`: check wheels, print the table.

    Args:
        argv: The arguments; wheels or folders of them. None given: the wheelhouse.

    Returns:
        0, or `AuditError.exit_code` where a wheel failed.

    Raises:
        UsageError: A path that is not there, or no wheel to check.
    """
    parser = Parser(prog="nox -s audit --", description="Check wheels against what they say.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="wheels, or folders of wheels")
    parser.add_argument(
        "--waive", action="append", default=[], metavar="CHECK", help="let its errors be warnings"
    )
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument(
        "--verbose", action="store_true", help="show notes, and the checks that found nothing"
    )
    options = parser.parse_args(argv)
    wheels = [wheel for path in options.paths or [ROOT / "wheelhouse"] for wheel in _wheels(path)]
    if not wheels:
        raise UsageError("There is no wheel to check.", "Build one, or name one: nox -s audit -- PATH.")
    targets = load_targets().values()
    reports = [audit_wheel(wheel, expect=target_of(wheel, targets), waive=options.waive) for wheel in wheels]
    if options.json:
        say(json.dumps([_as_json(report) for report in reports], indent=2))
    else:
        say(table(reports, notes=options.verbose))
        failed = sum(not report.passed for report in reports)
        say(f"\n{len(reports)} checked, {failed} failed")
    return 0 if all(report.passed for report in reports) else AuditError.exit_code


def _wheels(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.whl"))
    if not path.is_file():
        raise UsageError(f"{path}: not found.")
    return [path]


def _as_json(report: Report) -> dict[str, Any]:
    return {**asdict(report), "path": str(report.path), "passed": report.passed}
