# SPDX-License-Identifier: Apache-2.0
"""Attention with int8 QK and fp16 PV, for compute capability 8.0 and later."""

import torch

from ._library import attend_fake, attention_fake, load

load("_qattn_sm80")

qk_int8_sv_f16_accum_f32_attn = torch.ops.sageattention.qk_int8_sv_f16_accum_f32_attn.default
qk_int8_sv_f16_accum_f16_attn = torch.ops.sageattention.qk_int8_sv_f16_accum_f16_attn.default
qk_int8_sv_f16_accum_f16_attn_inst_buf = (
    torch.ops.sageattention.qk_int8_sv_f16_accum_f16_attn_inst_buf.default
)
qk_int8_sv_f16_accum_f16_fuse_v_mean_attn = (
    torch.ops.sageattention.qk_int8_sv_f16_accum_f16_fuse_v_mean_attn.default
)
# Prepares its inputs, and computes.
attention = torch.ops.sageattention.attention.default

for _operator in (
    qk_int8_sv_f16_accum_f32_attn,
    qk_int8_sv_f16_accum_f16_attn,
    qk_int8_sv_f16_accum_f16_attn_inst_buf,
    qk_int8_sv_f16_accum_f16_fuse_v_mean_attn,
):
    torch.library.register_fake(_operator.name())(attention_fake)
torch.library.register_fake(attention.name())(attend_fake)
