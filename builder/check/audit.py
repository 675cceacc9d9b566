"""Compares what a wheel, this project's or anybody's, says about itself with what it contains.

It finds mistakes, not forgeries: who writes a whole wheel anew passes. The checks themselves are in
`checks`. A wheel with an error fails the audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from builder.check.audit_report import AuditReport, Finding, summary, table
from builder.check.checks import contents, gpu_code, metadata, sbom_and_licence, shared_libraries
from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found
from builder.target.targets import Target, load_targets
from builder.util.arguments import Parser
from builder.util.errors import AuditError, BuilderError, UsageError
from builder.util.files import ROOT
from builder.util.log import say
from builder.wheel import sbom
from builder.wheel.wheelfile import Wheel

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
    "sbom": sbom_and_licence.sbom,
    "build_record": sbom_and_licence.build_record,
    "licence": sbom_and_licence.licence,
    "description": sbom_and_licence.description,
    "paths": contents.paths,
    "stack": shared_libraries.stack,
    "rpath": shared_libraries.rpath,
    "debug": shared_libraries.debug,
    "size": contents.size,
}


def audit_wheel(path: Path, *, expect: Target | None = None) -> AuditReport:
    """Check a wheel. A file that is not a wheel, or a damaged one, gives a report with that as its error.

    Args:
        path: The wheel.
        expect: The target that it should be for; None goes by what it says about itself.
    """
    try:
        with Wheel(path) as wheel:
            return _audit(AuditedWheel(wheel, expect))
    except Exception as error:  # whatever a wheel holds must not end the report of the others
        return AuditReport(path, (Finding(ERROR, "record", _sentence(error)),), None, ("record",))


def _audit(audited: AuditedWheel) -> AuditReport:
    house_rule = ERROR if audited.expect is not None or audited.ours else WARNING
    findings = []
    for name, check in CHECKS.items():
        found: list[tuple[str, str]] = []
        try:
            found.extend(check(audited))
        except Exception as error:
            found.append((ERROR, _sentence(error)))
        findings += [
            Finding(house_rule if level == HOUSE_RULE else level, name, text) for level, text in found
        ]
    return AuditReport(audited.wheel.path, tuple(findings), summary(audited), tuple(CHECKS))


def _sentence(error: Exception) -> str:
    if isinstance(error, BuilderError):
        return error.message
    return f"it can't be checked: {type(error).__name__}: {error}"


def target_of(path: Path, targets: Iterable[Target]) -> Target | None:
    """Return the target that a wheel of this project was built for, by its SBOM; None where none fits."""
    try:
        with Wheel(path) as wheel:
            stated = sbom.read(wheel)
    except AuditError:
        return None
    name = stated.subject.properties.get("target") if stated else None
    return next((target for target in targets if target.name == name), None)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m builder audit [PATH...]`: check wheels and print the table.

    Returns:
        0, or `AuditError.exit_code` where a wheel failed.

    Raises:
        UsageError: A path does not exist, or there is no wheel to check.
    """
    parser = Parser(
        prog="nox -s audit --", description="Compare what wheels say about themselves with what they contain."
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="wheels, or folders of wheels")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument(
        "--verbose", action="store_true", help="show notes, and the checks that found nothing"
    )
    options = parser.parse_args(argv)
    wheels = [wheel for path in options.paths or [ROOT / "wheelhouse"] for wheel in _wheels(path)]
    if not wheels:
        raise UsageError("There is no wheel to check.", "Build one, or name one: nox -s audit -- PATH.")
    targets = load_targets().values()
    reports = [audit_wheel(wheel, expect=target_of(wheel, targets)) for wheel in wheels]
    failed = sum(not report.passed for report in reports)
    if options.json:
        values = [{**asdict(report), "path": str(report.path), "passed": report.passed} for report in reports]
        say(json.dumps(values, indent=2))
    else:
        say(table(reports, notes=options.verbose))
        say(f"\n{len(reports)} checked, {failed} failed")
    return AuditError.exit_code if failed else 0


def _wheels(path: Path) -> list[Path]:
    """The wheels of a folder, or the wheel itself; none for the reports beside wheels (wheelhouse/*)."""
    if path.is_dir():
        return sorted(path.glob("*.whl"))
    if not path.is_file():
        raise UsageError(f"{path}: not found.")
    return [] if ".whl." in path.name else [path]
