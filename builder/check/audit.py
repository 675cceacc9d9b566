"""Compares what a wheel, this project's or anybody's, says about itself with what it contains.

It finds mistakes, not forgeries: who writes a whole wheel anew passes. The checks themselves are in
`checks`. A wheel with an error fails the audit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from builder.check.audited_wheel import AuditedWheel, stable_torch_symbols, stem
from builder.check.checks import CHECKS, ERROR, HOUSE_RULE, NOTE, WARNING
from builder.target.targets import Target
from builder.util.arguments import Parser
from builder.util.errors import AuditError, BuilderError, UsageError
from builder.util.files import ROOT
from builder.util.log import say
from builder.wheel import fatbin
from builder.wheel.libraries import SYSTEM, owner_of, reached_tag
from builder.wheel.wheelfile import Wheel


@dataclass(frozen=True)
class Finding:
    """One thing found: its level (`error`, `warning`, `note`), the check, and a sentence."""

    level: str
    check: str
    message: str


@dataclass(frozen=True)
class AuditReport:
    """The audit of one wheel: what each check found, and what the wheel is; None of what is not a wheel."""

    path: Path
    findings: tuple[Finding, ...]
    facts: dict[str, Any] | None
    checks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.level == ERROR for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Raise an AuditError with all errors of a wheel that did not pass."""
        errors = [finding for finding in self.findings if finding.level == ERROR]
        if errors:
            lines = "".join(f"\n    {finding.check}: {finding.message}" for finding in errors)
            raise AuditError(f"{self.path.name} failed its audit:{lines}")


def audit_wheel(path: Path, *, expect: Target | None = None) -> AuditReport:
    """Check a wheel, for the target that it should be for; without one for that which its SBOM names.

    A file that is not a wheel, or a damaged one, gives a report with that as its error.
    """
    findings = []
    try:
        with Wheel(path) as wheel:
            audited = AuditedWheel(wheel, expect)
            house_rule = ERROR if audited.expect or audited.ours else WARNING
            for name, check in CHECKS.items():
                try:
                    for level, text in check(audited):
                        findings.append(Finding(house_rule if level == HOUSE_RULE else level, name, text))
                except Exception as error:
                    findings.append(Finding(ERROR, name, _sentence(error)))
            return AuditReport(path, tuple(findings), _facts(audited), tuple(CHECKS))
    except Exception as error:  # whatever a wheel holds must not end the report of the others
        return AuditReport(path, (Finding(ERROR, "record", _sentence(error)),), None, ("record",))


def _sentence(error: Exception) -> str:
    if isinstance(error, BuilderError):
        return error.message
    return f"it can't be checked: {type(error).__name__}: {error}"


def _facts(audited: AuditedWheel) -> dict[str, Any]:
    """What a wheel is: its size, the oldest manylinux tag that its symbols fit, what it needs."""
    libraries = audited.libraries.values()
    needed = {soname for library in libraries for soname in library.needed} - audited.inside
    owners = {soname: owner_of(soname, audited.system_libraries) for soname in sorted(needed)}
    return {
        "size_bytes": audited.wheel.path.stat().st_size,
        "unpacked_bytes": sum(part.size_bytes for part in audited.contents.values()),
        "reached_tag": reached_tag(libraries),
        "architectures": {
            stem(name): fatbin.gpu_code(part.codes) for name, part in audited.extensions.items()
        },
        "torch_requirement": str(audited.torch or ""),
        "needs": {soname: o.name if o else "nobody" for soname, o in owners.items() if o is not SYSTEM},
        "torch_symbols": sorted({name for library in libraries for name in stable_torch_symbols(library)}),
        "unstable_symbols": sum(map(len, audited.unstable.values())),
    }


def table(reports: Iterable[AuditReport], *, notes: bool = False) -> str:
    """Return the reports as text; with `notes`, findings of that level too, and each check without any."""
    return "\n\n".join("\n".join(_rows(report, notes)) for report in reports)


def _rows(report: AuditReport, notes: bool) -> Iterator[str]:
    yield f"{'PASS' if report.passed else 'FAIL'}  {report.path.name}"
    if (facts := report.facts) is not None:
        packed, unpacked = (f"{facts[key] / 1e6:.1f} MB" for key in ("size_bytes", "unpacked_bytes"))
        interface = f"{len(facts['torch_symbols'])} symbols of torch's stable interface"
        if facts["unstable_symbols"]:
            interface = f"{facts['unstable_symbols']} symbols of libtorch's C++ interface"
        needs = [f"{soname} ({owner})" for soname, owner in facts["needs"].items()]
        yield f"      size           {packed}, {unpacked} installed"
        yield f"      symbols        fit {facts['reached_tag'] or 'no manylinux tag'}"
        yield f"      torch          {_torch(facts['torch_requirement'])}; {interface}"
        for name, architectures in facts["architectures"].items():
            yield f"      {name:<14} {' '.join(architectures) or 'no GPU code'}"
        yield f"      needs          {', '.join(needs) or 'nothing but the system'}"
    for check in report.checks:
        findings = [finding for finding in report.findings if finding.check == check]
        shown = [finding for finding in findings if notes or finding.level != NOTE]
        for finding in shown:
            yield f"  {finding.level:<8} {check:<14} {finding.message}"
        if not shown and notes:
            yield f"  ok       {check}"


def _torch(requirement: str) -> str:
    """A requirement for people: `torch>2.8.9999` is how a universal wheel says `2.9 and newer`.

    It keeps the pre-releases of 2.9 that NVIDIA's containers bring, and takes none from an index.
    """
    specifier = Requirement(requirement).specifier if requirement else ()
    for clause in specifier:
        if clause.operator == ">" and (match := re.fullmatch(r"(\d+)\.(\d+)\.9999", clause.version)):
            return f"{match[1]}.{int(match[2]) + 1} and newer ({requirement})"
    return requirement or "not required"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m builder audit [PATH...]`: check wheels and print what was found.

    Returns:
        0, or `AuditError.exit_code` where a wheel failed.

    Raises:
        UsageError: A path does not exist, or there is no wheel to check.
    """
    parser = Parser(
        prog="nox -s audit --", description="Compare what wheels say about themselves with what they contain."
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="PATH", help="wheels, or folders of wheels")
    add("--json", action="store_true", help="print the reports as JSON")
    add("--verbose", action="store_true", help="show notes, and the checks that found nothing")
    options = parser.parse_args(argv)
    wheels: list[Path] = []
    for path in options.paths or [ROOT / "wheelhouse"]:
        if not path.exists():
            raise UsageError(f"{path}: not found.")
        # wheelhouse/* names the reports beside wheels too.
        wheels += sorted(path.glob("*.whl")) if path.is_dir() else [path] * (".whl." not in path.name)
    if not wheels:
        raise UsageError("There is no wheel to check.", "Build one, or name one: nox -s audit -- PATH.")
    reports = [audit_wheel(wheel) for wheel in wheels]
    failed = sum(not report.passed for report in reports)
    if options.json:
        values = [{**asdict(report), "path": str(report.path), "passed": report.passed} for report in reports]
        say(json.dumps(values, indent=2))
    else:
        say(table(reports, notes=options.verbose))
        say(f"\n{len(reports)} checked, {failed} failed")
    return AuditError.exit_code if failed else 0
