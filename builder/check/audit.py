"""Compares what a wheel, this project's or anybody's, says about itself with what it contains.

The checks themselves are in `checks`. A wheel with an error fails the audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builder.check.audit_report import AuditReport, Facts, Finding, table
from builder.check.checks import contents, gpu_code, metadata, origin, shared_libraries
from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found
from builder.finish.sbom import own_sbom
from builder.finish.wheelhouse import wheels_in
from builder.target.targets import Target, load_targets
from builder.util.arguments import Parser
from builder.util.errors import AuditError, RepairError, UsageError
from builder.util.limits import HOUSE_WHEEL_BYTES
from builder.util.log import say
from builder.util.paths import ROOT
from builder.wheel.wheelfile import Wheel, WheelError

CHECKS: dict[str, Callable[[AuditedWheel], Found]] = {
    "record": contents.record,
    "files": contents.files,
    "names": metadata.names,
    "tag": shared_libraries.tag,
    "libraries": shared_libraries.libraries,
    "bundled": shared_libraries.bundled,
    "architectures": gpu_code.architectures,
    "version": metadata.version,
    "requirement": metadata.requirement,
    "sbom": origin.sbom,
    "build_record": origin.build_record,
    "licence": origin.licence,
    "description": origin.description,
    "paths": contents.paths,
    "stack": shared_libraries.stack,
    "rpath": shared_libraries.rpath,
    "debug": shared_libraries.debug,
    "size": contents.size,
}

# Checks that a wheel of the unpatched release is known to fail; `--no-patches` builds waive them.
UNPATCHED = frozenset({"requirement", "version", "paths"})


def audit_wheel(
    path: Path,
    *,
    expect: Target | None = None,
    house_rules: bool | None = None,
    waive: Collection[str] = (),
    size_limit_bytes: int = HOUSE_WHEEL_BYTES,
) -> AuditReport:
    """Check a wheel.

    Args:
        path: The wheel.
        expect: The target that it should be for; None goes by what it says about itself.
        house_rules: Whether breaking this project's own rules is an error. None: it is, where anything in
            the wheel says that this project made it, unless its SBOM says that it was not patched.
        waive: Names of checks whose errors count as warnings; `UNPATCHED` for `--no-patches` builds.
        size_limit_bytes: How large the house rules allow a wheel to be.

    Returns:
        The report. A file that is not a wheel, or a damaged one, gives a report with that as its error.

    Raises:
        UsageError: `waive` has a name that is not a check's.
    """
    if unknown := set(waive) - set(CHECKS):
        raise UsageError(f"No check {', '.join(sorted(unknown))}.", f"Checks: {', '.join(CHECKS)}.")
    try:
        with Wheel(path) as wheel:
            return _audit(AuditedWheel(wheel, expect, size_limit_bytes), house_rules, waive)
    except WheelError as error:
        message = error.message
    except Exception as error:  # Whatever a wheel holds must not end the report of the others.
        message = _unexpected(error)
    return AuditReport(path, (Finding(ERROR, "record", message),), None, ("record",))


def _audit(audited: AuditedWheel, house_rules: bool | None, waive: Collection[str]) -> AuditReport:
    if house_rules is None:
        house_rules = audited.ours and not audited.unpatched
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        found: list[tuple[str, str]] = []
        try:
            found += check(audited)
        except (AuditError, RepairError) as error:
            found.append((ERROR, error.message))
        except Exception as error:
            found.append((ERROR, _unexpected(error)))
        findings += [Finding(_level(level, name, house_rules, waive), name, text) for level, text in found]
    return AuditReport(audited.wheel.path, tuple(findings), Facts.of(audited), tuple(CHECKS))


def _unexpected(error: Exception) -> str:
    return f"it can't be checked: {type(error).__name__}: {error}"


def _level(level: str, check: str, house_rules: bool, waive: Collection[str]) -> str:
    if level == HOUSE_RULE:
        level = ERROR if house_rules else WARNING
    return WARNING if level == ERROR and check in waive else level


def target_of(path: Path, targets: Iterable[Target]) -> Target | None:
    """Return the target that a wheel of this project was built for, by its SBOM; None where none fits."""
    try:
        with Wheel(path) as wheel:
            bill = own_sbom(wheel)
    except (WheelError, ValueError):
        return None
    return next((target for target in targets if bill and target.name == bill.subject.fact("target")), None)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m builder audit [PATH...]`: check wheels and print the table.

    Args:
        argv: The arguments: wheels, or folders of wheels; the wheelhouse by default.

    Returns:
        0, or `AuditError.exit_code` where a wheel failed.

    Raises:
        UsageError: A path does not exist, or there is no wheel to check.
    """
    parser = Parser(
        prog="nox -s audit --", description="Compare what wheels say about themselves with what they contain."
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="wheels, or folders of wheels")
    parser.add_argument(
        "--waive", action="append", default=[], metavar="CHECK", help="count its errors as warnings"
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
    failed = sum(not report.passed for report in reports)
    if options.json:
        say(json.dumps([_as_json(report) for report in reports], indent=2))
    else:
        say(table(reports, notes=options.verbose))
        say(f"\n{len(reports)} checked, {failed} failed")
    return AuditError.exit_code if failed else 0


def _wheels(path: Path) -> list[Path]:
    if path.is_dir():
        return wheels_in(path)
    if not path.is_file():
        raise UsageError(f"{path}: not found.")
    return [path]


def _as_json(report: AuditReport) -> dict[str, Any]:
    return {**asdict(report), "path": str(report.path), "passed": report.passed}
