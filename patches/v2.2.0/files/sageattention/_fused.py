# SPDX-License-Identifier: Apache-2.0
"""Quantisation of queries, keys and values, for compute capability 8.0 and later: the library's operators, by name.

Each but `prepare` writes to tensors that it is given; csrc/fused/prepare.h says what `prepare` makes.
"""

from typing import Any

import torch

from ._library import operators, prepare_fake

_operators = operators("_fused", "sageattention_fused")
prepare: Any
scale_output: Any
no_backward: Any
globals().update(_operators)


def quant_per_block_int8_cuda(*arguments: Any) -> None:
    """Take input, output, scale, block_size, tensor_layout; or with sm_scale before block_size."""
    _operators["quant_per_block_int8_cuda" + (".sm_scale" if len(arguments) == 6 else "")](*arguments)


_FAKES = {"prepare": prepare_fake, "no_backward": lambda _, like: torch.empty_like(like)}
for _name, _operator in _operators.items():
    torch.library.register_fake(_operator.name())(_FAKES.get(_name, lambda *_: None))
