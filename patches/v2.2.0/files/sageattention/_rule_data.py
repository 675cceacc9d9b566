# SPDX-License-Identifier: Apache-2.0
"""Rules of GPUs that were measured, as `python -m sageattention --measure` prints them; _rule.py says what they mean.

sm90: one H100 80GB HBM3, torch 2.11.0+cu130.
"""

RULES: dict[str, dict[str, list[int]]] = {
    "sm90": {
        "full 64": [512, 4096, 0],
        "full 96": [2896, 2048, 16777216],
        "full 128": [1448, 2048, 16777216],
        "causal 64": [512, 4096, 0],
        "causal 96": [1448, 4096, 67108864],
        "causal 128": [512, 4096, 0],
        "bool 64": [1099511627776, 0, 0],
        "bool 96": [1099511627776, 0, 0],
        "bool 128": [1099511627776, 0, 0],
        "float 64": [1099511627776, 0, 0],
        "float 96": [1099511627776, 0, 0],
        "float 128": [1024, 16384, 0],
    }
}
