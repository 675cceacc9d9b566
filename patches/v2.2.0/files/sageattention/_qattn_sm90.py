# SPDX-License-Identifier: Apache-2.0
"""Attention with int8 QK and fp8 PV on the Hopper instructions, for compute capability 9.0."""

import torch

from ._library import attend_fake, attention_fake, load

load("_qattn_sm90")

qk_int8_sv_f8_accum_f32_attn_inst_buf = (
    torch.ops.sageattention_sm90.qk_int8_sv_f8_accum_f32_attn_inst_buf.default
)
qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf = (
    torch.ops.sageattention_sm90.qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf.default
)
# Prepares its inputs, and computes.
attention = torch.ops.sageattention_sm90.attention.default

for _operator in (
    qk_int8_sv_f8_accum_f32_attn_inst_buf,
    qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf,
):
    torch.library.register_fake(_operator.name())(attention_fake)
torch.library.register_fake(attention.name())(attend_fake)
