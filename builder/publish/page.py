"""The page for people: which wheel fits, how to install it, and how to check it.

It is one file that needs nothing else. Without script it shows the table and the install lines, but not the
picker. A content security policy with the hashes of its own style and script keeps all else out.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from packaging.version import Version

from builder.publish.listed_wheel import ListedWheel, SmokeTest, newest_first, newest_of_each_cuda
from builder.publish.markup import TEMPLATES, render

TORCH_INDEX = "https://download.pytorch.org/whl/"
# GPUs that people know by name, for the table's legend (NVIDIA's list of CUDA GPUs).
GPUS = {
    "8.0": "A100, A30",
    "8.6": "RTX 30 series, A10, A40",
    "8.9": "RTX 40 series, L4, L40S",
    "9.0a": "H100, H200, GH200",
    "12.0": "RTX 50 series, RTX PRO Blackwell, GB10",
}
# Python 3 minor versions that the picker offers for a wheel of the stable ABI.
NEWEST_PYTHON_MINOR = 14


@dataclasses.dataclass(frozen=True)
class Page:
    """What the page says beside the wheels.

    Attributes:
        site_url: The site's address, with a slash at its end, or empty.
        repository: `owner/name` of this project's repository, or empty.
    """

    site_url: str = ""
    repository: str = ""


def page_html(wheels: Sequence[ListedWheel], page: Page) -> str:
    """Return the page for people: a picker, the table of wheels, and how to check one.

    Args:
        wheels: With their addresses; at least one of them portable.
        page: What else to say.
    """
    ordered = newest_first(wheels)
    offered = [wheel for wheel in ordered if wheel.portable]
    css, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "picker.js"))
    held = {architecture for wheel in offered for architecture in wheel.architectures}
    return render(
        "page.html",
        css=Markup(css),  # noqa: S704 - a file of this project
        css_hash=_csp_hash(css),
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        machines=" and ".join(sorted({wheel.machine for wheel in offered}, reverse=True)),
        newest=max((wheel.release for wheel in offered), key=Version),
        data=picker_data(offered),
        offered=offered,
        newest_of_each_cuda=newest_of_each_cuda(offered),
        basic=[wheel for wheel in ordered if not wheel.portable],
        gpus={name: gpus for name, gpus in GPUS.items() if name in held},
        smoke_detail=_smoke_detail,
        site=page.site_url or "ADDRESS-OF-THIS-PAGE/",
        repository=page.repository,
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _smoke_detail(test: SmokeTest) -> str:
    """Return where a smoke test ran, and its counts where its report ends with them in brackets."""
    counts = re.search(r"\((.+)\)$", test.detail)
    return ": ".join(part for part in (test.on, counts[1] if counts else test.detail) if part)


def picker_data(offered: Sequence[ListedWheel]) -> dict[str, Any]:
    """Return what the picker needs: for each wheel, which machine, Python, torch and CUDA it fits.

    Wheels with a tag or requirement of another form than this project's are only in the table.
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
                "machine": wheel.machine,
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
        "machine": sorted({choice["machine"] for choice in choices}, reverse=True),
        "cuda": {wheel.cuda: wheel.human_cuda for wheel in offered},
        "python": sorted(pythons, reverse=True),
        "torchIndex": TORCH_INDEX,
    }
