"""A package that breaks what clients rely on is found out, without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from builder.smoketest.attention import client_calls

PACKAGE = {
    "__init__.py": """
def attend(q, k, v, layout="HND", **anything): pass
def strict(q, k, v, mask=None): pass
class Kernel:
    arg_names = ["Q", "Out", "mask", "length", "BLOCK"]
launched = Kernel()
class Argument:
    def __init__(self, name): self.name = name
class Schema:
    arguments = [Argument("query"), Argument("output"), Argument("flag")]
class Operator:
    _schema = Schema()
operator = Operator()
compiled = len
""",
    "core.py": "from . import attend\n",
    "broken.py": "import a_package_that_is_not_there\n",
}


@pytest.fixture
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "promised"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "promised"]:
        monkeypatch.delitem(sys.modules, name)


def uses(**parts: Any) -> dict[str, Any]:
    return {"names": {}, "specs": [], "accepts": {}, "calls": [], **parts}


def calling(path: str, *args: Any, kind: str = "call", **keywords: Any) -> dict[str, Any]:
    step = {kind: path, "args": list(args), "keywords": keywords}
    return uses(calls=[{"client": "somebody", "case": "a call", "steps": [step]}])


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    "kept",
    [
        uses(names={"promised": ["attend", "core"], "promised.core": ["attend"]}),
        uses(specs=["promised.core"]),
        uses(accepts={"promised.strict": ["mask"], "promised.launched": ["mask"]}),
        calling("promised.attend", 1, 2, 3, layout="NHD"),
        calling("promised.strict", q=1, k=2, v=3),
        calling("promised.launched", 1, 2, 3, 4, kind="launch", BLOCK=64, num_warps=4),
        calling("promised.operator", 1, 2, 3),
        calling("promised.compiled", 1),
        # The wheel has no such library, so neither has its module.
        uses(names={"promised._qattn_sm80": ["f"], "promised.sm80_compile": ["g"]}),
        calling("promised.core._qattn_sm80.f", 1),
    ],
)
def test_what_is_kept(kept: dict[str, Any]) -> None:
    assert client_calls.problems(["_qattn_sm90"], kept) == []


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (uses(names={"promised": ["gone"]}), "promised.gone: AttributeError"),
        (uses(names={"promised.gone": ["f"]}), "promised.gone.f: AttributeError"),
        (uses(names={"promised.broken": ["f"]}), "No module named 'a_package_that_is_not_there'"),
        (uses(specs=["promised.gone"]), "promised.gone has no spec"),
        (uses(accepts={"promised.attend": ["mask"]}), "promised.attend has no parameter mask"),
        (calling("promised.attend", 1, 2), "missing a required argument: 'v'"),
        (calling("promised.strict", 1, 2, 3, scale=5), "unexpected keyword argument 'scale'"),
        (calling("promised.launched", 1, 2, 3, kind="launch", BLOCK=64), "lacks length"),
        (calling("promised.launched", 1, 2, 3, 4, 5, kind="launch", BLOCK=64), "has BLOCK, BLOCK too much"),
        (calling("promised.operator", 1, 2, 3, 4), "has more by position too much"),
        (uses(names={"promised.sm90_compile": ["f"]}), "promised.sm90_compile.f: AttributeError"),
    ],
)
def test_what_is_broken(broken: dict[str, Any], said: str) -> None:
    (problem,) = client_calls.problems(["_qattn_sm90"], broken)
    assert said in problem
    assert "(somebody: a call)" in problem or not broken["calls"]


def test_each_call_has_a_name_of_its_own() -> None:
    names = [(call["client"], call["case"]) for call in client_calls.load()["calls"]]
    assert len(set(names)) == len(names)
    assert {call["family"] for call in client_calls.load()["calls"]} == {"fp16", "fp8", "default"}
