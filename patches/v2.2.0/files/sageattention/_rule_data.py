# SPDX-License-Identifier: Apache-2.0
"""Rules of GPUs that were measured, as `python -m sageattention --measure` prints them; _rule.py says what they mean.

sm90: one H100 80GB HBM3, torch 2.11.0+cu130.
"""

RULES: dict[str, dict[str, list[int]]] = {
    "sm90": {
        "full 64": [5793, 2048, 67108864],
        "full 96": [5793, 2048, 67108864],
        "full 128": [2896, 4096, 16777216],
        "causal 64": [11585, 512, 16777216],
        "causal 96": [11585, 512, 16777216],
        "causal 128": [2896, 4096, 16777216],
        "bool 64": [1099511627776, 0, 0],
        "bool 96": [1099511627776, 0, 0],
        "bool 128": [1099511627776, 0, 0],
        "float 64": [1099511627776, 0, 0],
        "float 96": [1099511627776, 0, 0],
        "float 128": [1099511627776, 0, 0],
    }
}
