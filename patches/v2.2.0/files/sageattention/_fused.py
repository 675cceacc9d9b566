# SPDX-License-Identifier: Apache-2.0
"""Quantisation of queries, keys and values: the library's operators, by name."""

from typing import Any

import torch

from ._library import operators, prepare_fake

_FAKES = {"prepare": prepare_fake, "no_backward": lambda _, like: torch.empty_like(like)}
_operators = operators("_fused", "sageattention_fused", _FAKES, lambda *_: None)
prepare: Any
scale_output: Any
no_backward: Any
globals().update(_operators)


def quant_per_block_int8_cuda(*arguments: Any) -> None:
    """Take input, output, scale, block_size, tensor_layout; or with sm_scale before block_size."""
    _operators["quant_per_block_int8_cuda" + (".sm_scale" if len(arguments) == 6 else "")](*arguments)
