"""What an audit finds in a wheel, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.check.checks.audited_wheel import ERROR, NOTE, AuditedWheel
from builder.check.checks.evidence import stable_torch_symbols, stem
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
class Facts:
    """What a wheel is, as far as it could be read.

    Attributes:
        size_bytes: Of the file.
        unpacked_bytes: Of its members.
        reached_tag: The oldest manylinux tag that its symbols fit; empty where none.
        architectures: Name of each library with GPU code -> its cubins' architectures, and `PTX 8.0` for PTX.
        torch_requirement: From METADATA; empty without.
        needs: SONAME of each library that is not in the wheel -> who provides it.
        torch_symbols: Symbols of torch's stable C interface that it uses, sorted.
        unstable_symbols: How many symbols of libtorch's C++ interface it uses.
    """

    size_bytes: int
    unpacked_bytes: int
    reached_tag: str
    architectures: Mapping[str, tuple[str, ...]]
    torch_requirement: str
    needs: Mapping[str, str]
    torch_symbols: tuple[str, ...]
    unstable_symbols: int

    @classmethod
    def of(cls, audited: AuditedWheel) -> Facts:
        """Collect the facts of a wheel."""
        needs: dict[str, str] = {}
        for library in audited.libraries.values():
            for soname in library.needed:
                owner = owner_of(soname, audited.system_libraries)
                if soname not in audited.inside and owner is not SYSTEM:
                    needs[soname] = owner.name if owner else "nobody"
        symbols = {name for library in audited.libraries.values() for name in stable_torch_symbols(library)}
        return cls(
            size_bytes=audited.wheel.path.stat().st_size,
            unpacked_bytes=sum(part.size_bytes for part in audited.contents.values()),
            reached_tag=reached_tag(audited.libraries.values()),
            architectures={
                stem(name): gpu_code(part.codes) for name, part in sorted(audited.extensions.items())
            },
            torch_requirement=str(audited.torch or ""),
            needs=dict(sorted(needs.items())),
            torch_symbols=tuple(sorted(symbols)),
            unstable_symbols=sum(map(len, audited.unstable.values())),
        )


@dataclass(frozen=True)
class AuditReport:
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
        """Whether no finding is an error."""
        return not any(finding.level == ERROR for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Raise the errors of a wheel that did not pass.

        Raises:
            AuditError: There are errors; it lists them all.
        """
        errors = [finding for finding in self.findings if finding.level == ERROR]
        if errors:
            rows = [f"{finding.check}: {finding.message}".replace("\n", "\\n") for finding in errors]
            lines = "".join(f"\n    {row}" for row in rows)
            raise AuditError(f"{self.path.name} failed its audit:{lines}")


def table(reports: Iterable[AuditReport], *, notes: bool = False) -> str:
    """Return the reports as text: a line for each wheel, one for each check that found something.

    Args:
        reports: What to show.
        notes: Show findings of the level `note` too, and each check that found nothing.
    """
    # What a wheel says of itself stays in its own row.
    return "\n\n".join(
        "\n".join(row.replace("\n", "\\n") for row in _rows(report, notes)) for report in reports
    )


def _rows(report: AuditReport, notes: bool) -> Iterator[str]:
    yield f"{'PASS' if report.passed else 'FAIL'}  {report.path.name}"
    facts = report.facts
    if facts is not None:
        packed, unpacked = (f"{size / 1e6:.1f} MB" for size in (facts.size_bytes, facts.unpacked_bytes))
        yield f"      size           {packed}, {unpacked} installed"
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
