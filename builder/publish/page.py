"""The page for people: which wheel fits, how to install it, and how to check it.

One file that needs nothing from elsewhere. Without script the table and the install lines are there and
the picker is not. A content security policy with the hashes of its own style and script keeps all else out.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from builder.publish import catalogue
from builder.publish.catalogue import SmokeTest, Wheel

TEMPLATES = Path(__file__).resolve().parent / "templates"
TORCH_INDEX = "https://download.pytorch.org/whl/"
# GPUs that people know by name, for the table's legend (NVIDIA's list of CUDA GPUs).
GPUS = {
    "8.0": "A100, A30",
    "8.6": "RTX 30 series, A10, A40",
    "8.9": "RTX 40 series, L4, L40S",
    "9.0a": "H100, H200",
    "12.0": "RTX 50 series, RTX PRO Blackwell",
}
# Python 3 minor versions that the picker offers for a wheel of the stable ABI.
NEWEST_PYTHON_MINOR = 14


@dataclasses.dataclass(frozen=True)
class Page:
    """What the page says beside the wheels.

    Attributes:
        site_url: Where the site will be, with a slash at its end; empty where that is not known.
        repository: `owner/name` of this project's repository; empty where that is not known.
    """

    site_url: str = ""
    repository: str = ""


def page_html(wheels: Sequence[Wheel], page: Page) -> str:
    """The page for people: a picker, the table of wheels, and how to check one.

    Args:
        wheels: With their addresses; at least one of them portable.
        page: What else to say.
    """
    ordered = catalogue.newest_first(wheels)
    offered = [wheel for wheel in ordered if wheel.portable]
    basic = [wheel for wheel in ordered if not wheel.portable]
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "picker.js").read_text(encoding="utf-8")
    template = string.Template((TEMPLATES / "page.html").read_text(encoding="utf-8"))
    versions = sorted({wheel.release for wheel in offered}, key=Version, reverse=True)
    return template.substitute(
        css=css,
        css_hash=_csp_hash(css),
        script=script,
        script_hash=_csp_hash(script),
        newest=html.escape(versions[0]),
        data=json.dumps(picker_data(offered), sort_keys=True).replace("<", "\\u003c"),
        lines_without_script=_lines_without_script(offered, page),
        table=_table("Wheels of the index, newest version first", offered),
        basic=_basic_section(basic),
        legend=_legend(offered),
        attestation=_attestation(page),
        repository=_repository_link(page),
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def picker_data(offered: Sequence[Wheel]) -> dict[str, Any]:
    """What the picker needs: for each wheel which Python, torch and CUDA it fits.

    Wheels whose tag or requirement is of another form than this project's are in the table only.
    """
    choices: list[dict[str, Any]] = []
    pythons: set[int] = set()
    for wheel in offered:
        python = re.fullmatch(r"cp3(\d+)(-abi3)?", wheel.python)
        torch = re.fullmatch(r"(==|>=)2\.(\d+)(\.\*)?", wheel.torch)
        if python is None or torch is None:
            continue
        oldest = int(python[1])
        pythons |= set(range(oldest, (NEWEST_PYTHON_MINOR if python[2] else oldest) + 1))
        choices.append(
            {
                "cuda": wheel.cuda,
                "requirement": f"{wheel.project}=={wheel.version}",
                "python": oldest,
                "newerPython": python[2] is not None,
                "torch": int(torch[2]),
                "newerTorch": torch[1] == ">=",
                "architectures": " ".join(wheel.architectures),
            }
        )
    return {
        "wheels": choices,
        "cuda": {wheel.cuda: catalogue.human_cuda(wheel.cuda) for wheel in offered},
        "python": sorted(pythons, reverse=True),
        "torchIndex": TORCH_INDEX,
    }


def _lines_without_script(offered: Sequence[Wheel], page: Page) -> str:
    """Install lines for each CUDA version; `offered` is sorted, newest version first."""
    site = page.site_url or "ADDRESS-OF-THIS-PAGE/"
    items = []
    for cuda in dict.fromkeys(wheel.cuda for wheel in offered):
        newest = next(wheel for wheel in offered if wheel.cuda == cuda)
        torch = catalogue.human_torch(newest).split()[0]
        wanted = f'"{newest.project}=={newest.release}" "torch=={torch}.*"'
        lines = [
            f"python -m pip install {wanted} --extra-index-url {site}{cuda}/",
            f"uv pip install {wanted} --index {site}{cuda}/",
        ]
        code = "\n".join(html.escape(line, quote=False) for line in lines)
        items.append(f'<h3>CUDA {catalogue.human_cuda(cuda)}</h3>\n<pre tabindex="0">{code}</pre>')
    return "\n".join(items)


_COLUMNS = (
    "Version",
    "Python",
    "torch",
    "CUDA",
    "GPU architectures",
    "Smoke test",
    "Size",
    "File and SHA-256",
)


def _row(wheel: Wheel) -> str:
    href = html.escape(wheel.url)
    architectures = " ".join(f"<span>{html.escape(name)}</span>" for name in wheel.architectures)
    unverified = "" if wheel.verified else ' <em class="note">source not verified</em>'
    cells = (
        html.escape(wheel.release),
        html.escape(catalogue.human_python(wheel)),
        html.escape(catalogue.human_torch(wheel)),
        html.escape(catalogue.human_cuda(wheel.cuda)),
        f'<span class="architectures">{architectures or "not said"}</span>',
        _smoke_cell(wheel.smoke_test),
        html.escape(catalogue.human_size(wheel.size_bytes)),
        f'<a href="{href}">{_breakable(wheel.filename)}</a>{unverified}<code>{wheel.sha256}</code>',
    )
    written = "".join(
        f'<td role="cell" data-label="{label}">{cell}</td>'
        for label, cell in zip(_COLUMNS, cells, strict=True)
    )
    return f'<tr role="row">{written}</tr>'


def _smoke_cell(test: SmokeTest) -> str:
    classes = {"passed": "passed", "failed": "failed"}
    counts = re.search(r"\((.+)\)$", test.detail)
    detail = ": ".join(part for part in (test.on, counts[1] if counts else test.detail) if part)
    small = f"<small>{html.escape(detail)}</small>" if detail else ""
    return f'<b class="{classes.get(test.outcome, "unknown")}">{html.escape(test.outcome)}</b>{small}'


def _breakable(filename: str) -> str:
    """A file name that may break after its hyphens and at the local version."""
    return html.escape(filename).replace("-", "-<wbr>").replace("+", "<wbr>+")


def _table(caption: str, wheels: Sequence[Wheel]) -> str:
    """A table of wheels; its roles keep it a table where the style shows its rows as cards."""
    heads = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in _COLUMNS)
    rows = "\n".join(_row(wheel) for wheel in wheels)
    return (
        f'<table role="table">\n<caption>{caption}</caption>\n'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}\n</tbody>\n</table>'
    )


def _basic_section(basic: Sequence[Wheel]) -> str:
    if not basic:
        return ""
    return (
        '<section aria-labelledby="basic">\n<h2 id="basic">Basic wheels</h2>\n'
        "<p>The same code with nothing bundled: the CUDA runtime comes from the torch in the process. No "
        "index offers them, because their tag, <code>linux_x86_64</code>, does not say which glibc they "
        "need: pip would take one where the wheels above are rightly refused. Install one by its "
        "address.</p>\n"
        f"{_table('Wheels to be installed by their address', basic)}\n</section>"
    )


def _legend(wheels: Sequence[Wheel]) -> str:
    """Which GPUs the architectures of these wheels are, in words."""
    held = {architecture for wheel in wheels for architecture in wheel.architectures}
    items = [
        f"<div><dt>{name}</dt><dd>{html.escape(gpus)}</dd></div>"
        for name, gpus in GPUS.items()
        if name in held
    ]
    return f'<dl class="legend">{"".join(items)}</dl>' if items else ""


def _attestation(page: Page) -> str:
    if not page.repository:
        return ""
    command = html.escape(f"gh attestation verify FILE.whl --repo {page.repository}")
    return (
        "<li>Where it was built: wheels of a release are attested by the workflow that built them."
        f'<pre tabindex="0">{command}</pre></li>'
    )


def _repository_link(page: Page) -> str:
    if not page.repository:
        return ""
    name = html.escape(page.repository)
    return f'<a href="https://github.com/{name}">How these wheels are built</a> · '
