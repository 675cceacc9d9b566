"""Compares what a wheel, this project's or anybody's, says about itself with what it contains.

It finds mistakes, not forgeries: who writes a whole wheel anew passes. The checks themselves are in
`checks`. A wheel with an error fails the audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.check.checks import contents, gpu_code, metadata, sbom_and_licence, shared_libraries
from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, NOTE, WARNING, AuditedWheel, Found
from builder.check.checks.symbols import stable_torch_symbols, stem
from builder.target.targets import Target, load_targets
from builder.util.arguments import Parser
from builder.util.errors import AuditError, BuilderError, UsageError
from builder.util.files import ROOT
from builder.util.log import say
from builder.wheel import fatbin, sbom
from builder.wheel.libraries import SYSTEM, owner_of, reached_tag
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


@dataclass(frozen=True)
class Finding:
    """One thing found: its level (`error`, `warning`, `note`), the check, and a sentence."""

    level: str
    check: str
    message: str


@dataclass(frozen=True)
class AuditReport:
    """The audit of one wheel: what each check found, and its summary; None of what is not a wheel."""

    path: Path
    findings: tuple[Finding, ...]
    facts: dict[str, Any] | None
    checks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.level == ERROR for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Raise the errors of a wheel that did not pass.

        Raises:
            AuditError: There are errors; it lists them all.
        """
        errors = [finding for finding in self.findings if finding.level == ERROR]
        if errors:
            lines = "".join(f"\n    {finding.check}: {finding.message}" for finding in errors)
            raise AuditError(f"{self.path.name} failed its audit:{lines}")


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


def summary(audited: AuditedWheel) -> dict[str, Any]:
    """Return what a wheel is: its size, the oldest manylinux tag that its symbols fit, what it needs."""
    libraries = audited.libraries.values()
    needs: dict[str, str] = {}
    for soname in {soname for library in libraries for soname in library.needed} - audited.inside:
        owner = owner_of(soname, audited.system_libraries)
        if owner is not SYSTEM:
            needs[soname] = owner.name if owner else "nobody"
    return {
        "size_bytes": audited.wheel.path.stat().st_size,
        "unpacked_bytes": sum(part.size_bytes for part in audited.contents.values()),
        "reached_tag": reached_tag(libraries),
        "architectures": {
            stem(name): fatbin.gpu_code(part.codes) for name, part in audited.extensions.items()
        },
        "torch_requirement": str(audited.torch or ""),
        "needs": dict(sorted(needs.items())),
        "torch_symbols": sorted({name for library in libraries for name in stable_torch_symbols(library)}),
        "unstable_symbols": sum(map(len, audited.unstable.values())),
    }


def table(reports: Iterable[AuditReport], *, notes: bool = False) -> str:
    """Return the reports as text: a line for each wheel, one for each check that found something.

    Args:
        reports: What to show.
        notes: Show findings of the level `note` too, and each check that found nothing.
    """
    return "\n\n".join("\n".join(_rows(report, notes)) for report in reports)


def _rows(report: AuditReport, notes: bool) -> Iterator[str]:
    yield f"{'PASS' if report.passed else 'FAIL'}  {report.path.name}"
    if (facts := report.facts) is not None:
        packed, unpacked = (f"{facts[key] / 1e6:.1f} MB" for key in ("size_bytes", "unpacked_bytes"))
        interface = f"{len(facts['torch_symbols'])} symbols of torch's stable interface"
        if facts["unstable_symbols"]:
            interface = f"{facts['unstable_symbols']} symbols of libtorch's C++ interface"
        yield f"      size           {packed}, {unpacked} installed"
        yield f"      symbols        fit {facts['reached_tag'] or 'no manylinux tag'}"
        yield f"      torch          {facts['torch_requirement'] or 'not required'}; {interface}"
        for name, architectures in facts["architectures"].items():
            yield f"      {name:<14} {' '.join(architectures) or 'no GPU code'}"
        needs = [f"{soname} ({owner})" for soname, owner in facts["needs"].items()]
        yield f"      needs          {', '.join(needs) or 'nothing but the system'}"
    for check in report.checks:
        findings = [finding for finding in report.findings if finding.check == check]
        shown = [finding for finding in findings if notes or finding.level != NOTE]
        for finding in shown:
            yield f"  {finding.level:<8} {check:<14} {finding.message}"
        if not shown and notes:
            yield f"  ok       {check}"


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
