# SPDX-License-Identifier: Apache-2.0
"""When torch's own attention is faster on a GPU: a few measured numbers, this build's or those of the user's machine.

Preparing Q costs time for each of its rows, preparing K and V for each of theirs, and a call some more; what is gained
grows with the size of QK^T. So there are three numbers for each kind of call: keys that a row of Q needs to pay for
itself, rows of Q that a key needs, and elements of QK^T that a call needs. `python -m sageattention --measure` makes
them.
"""

import json
import os
import re
from pathlib import Path

import torch

from ._arguments import Sizes
from ._rule_data import RULES

KINDS = ("full", "causal", "bool", "float")  # no mask; or what masks
HEAD_DIMS = (64, 96, 128)
NEVER = 2**40  # keys

Rule = dict[str, list[int]]
_rules: dict[int, Rule] = {}


def torch_is_faster(device_index: int, kind: str, sizes: Sizes) -> bool:
    """Return whether torch's function is faster; False where nobody measured."""
    head_dim = 64 if sizes.head_dim <= 64 else 96 if sizes.head_dim <= 96 else 128
    figures = _figures(device_index, kind, head_dim)
    if figures is None:
        return False
    keys, queries, products = figures
    rows = sizes.batch * sizes.q_heads * sizes.q_tokens
    kv_rows = sizes.batch * sizes.kv_heads * sizes.kv_tokens
    return rows * sizes.kv_tokens < keys * rows + queries * kv_rows + products


def _figures(device_index: int, kind: str, head_dim: int) -> tuple[int, ...] | None:
    if device_index not in _rules:
        _rules[device_index] = load(device_index)
    figures = _rules[device_index].get(f"{kind} {head_dim}")
    return None if figures is None else tuple(figures)


_figures._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in core.py


def user_file(device_index: int) -> Path:
    """Return where the rule that the user measured for a GPU is kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name(device_index))
    return Path(folder) / "sageattention" / f"{name}.json"


def load(device_index: int) -> Rule:
    """Return the rule of a GPU: the user's own, or this build's; empty where there is none."""
    try:
        rule = json.loads(user_file(device_index).read_text(encoding="utf-8"))["rule"]
        return {name: [int(figure) for figure in rule[name]] for name in rule}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        major, minor = torch.cuda.get_device_capability(device_index)
        return RULES.get(f"sm{major}{minor}", {})


def keep(device_index: int, rule: Rule, about: dict[str, str]) -> Path:
    """Keep a rule for this GPU, and use it from the next call on."""
    file = user_file(device_index)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({**about, "rule": rule}, indent=1), encoding="utf-8")
    beside.replace(file)
    _rules[device_index] = rule
    return file
