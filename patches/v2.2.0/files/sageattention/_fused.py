# SPDX-License-Identifier: Apache-2.0
"""Quantisation of queries, keys and values, for compute capability 8.0 and later.

Each function but `prepare` writes to tensors that it is given; csrc/fused/prepare.h says what `prepare` makes.
"""

from typing import Any

import torch

from ._library import load, prepare_fake, quantisation_fake

load("_fused")


def quant_per_block_int8_cuda(*arguments: Any) -> None:
    """Take input, output, scale, block_size, tensor_layout; or with sm_scale before block_size."""
    operator = torch.ops.sageattention_fused.quant_per_block_int8_cuda
    (operator.sm_scale if len(arguments) == 6 else operator.default)(*arguments)


quant_per_block_int8_fuse_sub_mean_cuda = (
    torch.ops.sageattention_fused.quant_per_block_int8_fuse_sub_mean_cuda.default
)
quant_per_warp_int8_cuda = torch.ops.sageattention_fused.quant_per_warp_int8_cuda.default
sub_mean_cuda = torch.ops.sageattention_fused.sub_mean_cuda.default
transpose_pad_permute_cuda = torch.ops.sageattention_fused.transpose_pad_permute_cuda.default
scale_fuse_quant_cuda = torch.ops.sageattention_fused.scale_fuse_quant_cuda.default
mean_scale_fuse_quant_cuda = torch.ops.sageattention_fused.mean_scale_fuse_quant_cuda.default
prepare = torch.ops.sageattention_fused.prepare.default
scale_output = torch.ops.sageattention_fused.scale_output.default
no_backward = torch.ops.sageattention_fused.no_backward.default

for _operator in (
    torch.ops.sageattention_fused.quant_per_block_int8_cuda.default,
    torch.ops.sageattention_fused.quant_per_block_int8_cuda.sm_scale,
    quant_per_block_int8_fuse_sub_mean_cuda,
    quant_per_warp_int8_cuda,
    sub_mean_cuda,
    transpose_pad_permute_cuda,
    scale_fuse_quant_cuda,
    mean_scale_fuse_quant_cuda,
    scale_output,
):
    torch.library.register_fake(_operator.name())(quantisation_fake)
torch.library.register_fake(prepare.name())(prepare_fake)
torch.library.register_fake(no_backward.name())(lambda gradient, like: torch.empty_like(like))
