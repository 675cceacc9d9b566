"""What an audit finds in a wheel, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.check.checks.audited_wheel import ERROR, NOTE, AuditedWheel
from builder.check.checks.symbols import stable_torch_symbols, stem
from builder.util.errors import AuditError
from builder.wheel.fatbin import gpu_code
from builder.wheel.libraries import SYSTEM, owner_of
from builder.wheel.manylinux import reached_tag


@dataclass(frozen=True)
class Finding:
    """One thing found: its level (`error`, `warning`, `note`), the check, and a sentence."""

    level: str
    check: str
    message: str


@dataclass(frozen=True)
class AuditReport:
    """The audit of one wheel.

    Attributes:
        path: The wheel.
        findings: In the order of the checks.
        facts: What `summary` returned; None where the file could not be read as a wheel.
        checks: Names of the checks that ran.
    """

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
        "architectures": {stem(name): gpu_code(part.codes) for name, part in audited.extensions.items()},
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
