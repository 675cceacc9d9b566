"""Import and first call in a process of their own, where there is no compiler and nothing can be written."""

from __future__ import annotations

import json
from typing import Any

from builder.smoketest.attention.subject import Subject, run_python
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict

LONGEST_IMPORT_S = 1.0
"""`import sageattention` after torch and CUDA are up: 0.3 s on 2 cores. Dynamo's import takes seconds."""
LARGEST_ERROR = 0.05
NOWHERE = "/dev/null/nowhere"
UNWRITABLE = ("HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
COMPILERS = ("CC", "CXX", "CUDA_HOME")
SCRIPT = """
import json, sys, time, torch
device, report = sys.argv[1], {}
watched = ("triton", "torch._dynamo", "torch._inductor")
torch.manual_seed(0)
q, k, v = (torch.randn(1, 4, 300, 64, device=device).half() for _ in range(3))
right = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
float(right.sum())
before = set(sys.modules)
start = time.perf_counter()
try:
    import sageattention
    report["import_s"] = time.perf_counter() - start
    report["import brings"] = [name for name in watched if name in sys.modules and name not in before]
    start = time.perf_counter()
    out = sageattention.sageattn(q, k, v).float()
    float(out.sum())
    report["first_call_s"] = time.perf_counter() - start
    report["first call brings"] = [name for name in watched if name in sys.modules and name not in before]
    report["relative_error"] = float((out - right).norm() / right.norm())
except Exception as error:
    report["raised"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(report))
"""


def _report(subject: Subject) -> dict[str, Any]:
    """Return what the process reports, which runs once for both rows; `raised` is why there is no result."""

    def run() -> dict[str, Any]:
        env = {"PATH": NOWHERE, **dict.fromkeys(UNWRITABLE, NOWHERE), **dict.fromkeys(COMPILERS, "")}
        try:
            report: dict[str, Any] = json.loads(
                run_python("-W", "ignore", "-c", SCRIPT, subject.device, env=env)
            )
        except (RuntimeError, ValueError) as error:
            return {"raised": str(error)}
        return report

    return subject.cached("fresh process", run)


def bare(subject: Subject, _: RowSpec) -> Result:
    """The first call works with no C compiler to be found, and with no home and no cache to write to."""
    report = _report(subject)
    error = float(report.get("relative_error", "nan"))
    problems = [report["raised"]] if "raised" in report else []
    if not problems and not error <= LARGEST_ERROR:
        problems = [f"relative error {error:.4f} > {LARGEST_ERROR}"]
    return verdict(problems, {"relative_error": error}, {"relative_error": f"<= {LARGEST_ERROR}"})


def light(subject: Subject, _: RowSpec) -> Result:
    """Import is quick, and neither it nor the first call imports Triton or torch's compiler."""
    if subject.on_gpu and subject.capability < (8, 0):
        return not_applicable("sageattn() uses Triton on this GPU")
    report = _report(subject)
    problems = [
        f"{what} {', '.join(report[what])}"
        for what in ("import brings", "first call brings")
        if report.get(what)
    ]
    import_s = float(report.get("import_s", "nan"))
    if not import_s <= LONGEST_IMPORT_S:
        problems.append(f"import took {import_s:.2f} s > {LONGEST_IMPORT_S} s")
    if "first_call_s" not in report:
        problems.append("there was no first call")
    figures = {name: float(value) for name, value in report.items() if name.endswith("_s")}
    return verdict(problems, figures, {"import_s": f"<= {LONGEST_IMPORT_S}"})
