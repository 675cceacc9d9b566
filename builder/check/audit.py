"""Compares what a wheel, this project's or anybody's, says about itself with what it contains.

It finds mistakes, not forgeries: who writes a whole wheel anew passes. The checks themselves are in
`checks`. A wheel with an error fails the audit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.check.audited_wheel import AuditedWheel, stem
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
    def errors(self) -> list[str]:
        """The errors, each with the name of its check; a wheel with any has failed."""
        return [f"{each.check}: {each.message}" for each in self.findings if each.level == ERROR]


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
    unforeseen = f"it can't be checked: {type(error).__name__}: {error}"
    return error.message if isinstance(error, BuilderError) else unforeseen


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
        "torch_symbols": sorted({symbol for symbols in audited.torch_c.values() for symbol in symbols}),
        "unstable_symbols": audited.unstable,
    }


def table(report: AuditReport, *, notes: bool = False) -> str:
    """Return a report as text; with `notes`, findings of that level too, and each check without any."""
    lines = [f"{'FAIL' if report.errors else 'PASS'}  {report.path.name}"]
    if (facts := report.facts) is not None:
        packed, unpacked = (f"{facts[key] / 1e6:.1f} MB" for key in ("size_bytes", "unpacked_bytes"))
        interface = f"{len(facts['torch_symbols'])} symbols of torch's stable interface"
        if facts["unstable_symbols"]:
            interface = f"{facts['unstable_symbols']} symbols of libtorch's C++ interface"
        rows = {
            "size": f"{packed}, {unpacked} installed",
            "symbols": f"fit {facts['reached_tag'] or 'no manylinux tag'}",
            "torch": f"{facts['torch_requirement'] or 'not required'}; {interface}",
            **{name: " ".join(codes) or "no GPU code" for name, codes in facts["architectures"].items()},
            "needs": ", ".join(f"{soname} ({owner})" for soname, owner in facts["needs"].items())
            or "nothing",
        }
        lines += [f"      {name:<14} {text}" for name, text in rows.items()]
    for check in report.checks:
        findings = [each for each in report.findings if each.check == check and (notes or each.level != NOTE)]
        lines += [f"  {each.level:<8} {check:<14} {each.message}" for each in findings]
        if notes and not findings:
            lines.append(f"  ok       {check}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m builder audit [PATH...]`: check wheels and print what was found.

    Returns 0, or `AuditError.exit_code` where a wheel failed; UsageError if there is none to check.
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
    failed = sum(bool(report.errors) for report in reports)
    if options.json:
        values = [{**asdict(each), "path": str(each.path), "passed": not each.errors} for each in reports]
        say(json.dumps(values, indent=2))
    else:
        say("\n\n".join(table(report, notes=options.verbose) for report in reports))
        say(f"\n{len(reports)} checked, {failed} failed")
    return AuditError.exit_code if failed else 0
