# SPDX-License-Identifier: Apache-2.0
"""Quantisation of queries, keys and values, for compute capability 8.0 and later."""

import torch

from ._library import load, quantisation_fake

load("_fused")

# Each writes to tensors that it is given. The first has a form with a softmax scale and one without.
quant_per_block_int8_cuda = torch.ops.sageattention_fused.quant_per_block_int8_cuda
quant_per_block_int8_fuse_sub_mean_cuda = (
    torch.ops.sageattention_fused.quant_per_block_int8_fuse_sub_mean_cuda
)
quant_per_warp_int8_cuda = torch.ops.sageattention_fused.quant_per_warp_int8_cuda
sub_mean_cuda = torch.ops.sageattention_fused.sub_mean_cuda
transpose_pad_permute_cuda = torch.ops.sageattention_fused.transpose_pad_permute_cuda
scale_fuse_quant_cuda = torch.ops.sageattention_fused.scale_fuse_quant_cuda
mean_scale_fuse_quant_cuda = torch.ops.sageattention_fused.mean_scale_fuse_quant_cuda

for _packet in (
    quant_per_block_int8_cuda,
    quant_per_block_int8_fuse_sub_mean_cuda,
    quant_per_warp_int8_cuda,
    sub_mean_cuda,
    transpose_pad_permute_cuda,
    scale_fuse_quant_cuda,
    mean_scale_fuse_quant_cuda,
):
    for _overload in _packet.overloads():
        torch.library.register_fake(getattr(_packet, _overload).name())(quantisation_fake)
