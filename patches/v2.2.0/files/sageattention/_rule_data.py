# SPDX-License-Identifier: Apache-2.0
"""Rules of GPUs that were measured, as `python -m sageattention --measure` prints them; _rule.py says what they mean.

sm90: one H100 80GB HBM3, torch 2.11.0+cu130.
"""

RULES: dict[str, dict[str, list[int]]] = {
    "sm90": {
        "full 64": [724, 2896, 16777216],
        "full 96": [2896, 2896, 16777216],
        "full 128": [1448, 2048, 16777216],
        "causal 64": [724, 4096, 16777216],
        "causal 96": [2048, 1024, 268435456],
        "causal 128": [1448, 4096, 67108864],
        "bool 64": [1099511627776, 0, 0],
        "bool 96": [1099511627776, 0, 0],
        "bool 128": [1099511627776, 0, 0],
        "float 64": [1099511627776, 0, 0],
        "float 96": [1099511627776, 0, 0],
        "float 128": [1099511627776, 0, 0],
    }
}
