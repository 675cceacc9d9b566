# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here; _qattn_sm89 registers the operators."""

from . import _qattn_sm89
from ._library import attention_fake
from ._qattn_sm89 import (
    qk_int8_sv_f8_accum_f16_attn_inst_buf,
    qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf,
    qk_int8_sv_f8_accum_f32_attn,
    qk_int8_sv_f8_accum_f32_attn_inst_buf,
    qk_int8_sv_f8_accum_f32_fuse_v_scale_attn,
    qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf,
    qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn,
)

sm89_qk_with_key_value = attention_fake
sm89_qk_with_key_value_mean = attention_fake

__all__ = [
    "_qattn_sm89",
    "qk_int8_sv_f8_accum_f16_attn_inst_buf",
    "qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf",
    "qk_int8_sv_f8_accum_f32_attn",
    "qk_int8_sv_f8_accum_f32_attn_inst_buf",
    "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn",
    "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
    "qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn",
    "sm89_qk_with_key_value",
    "sm89_qk_with_key_value_mean",
]
