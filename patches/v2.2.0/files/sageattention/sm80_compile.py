# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here; _qattn_sm80 registers the operators."""

from . import _qattn_sm80
from ._library import attention_fake
from ._qattn_sm80 import (
    qk_int8_sv_f16_accum_f16_attn,
    qk_int8_sv_f16_accum_f16_attn_inst_buf,
    qk_int8_sv_f16_accum_f16_fuse_v_mean_attn,
    qk_int8_sv_f16_accum_f32_attn,
)

sm80_qk_fake_impl = attention_fake
qk_int8_sv_f16_accum_f16_fuse_v_mean_attn_fake_impl = attention_fake

__all__ = [
    "_qattn_sm80",
    "qk_int8_sv_f16_accum_f16_attn",
    "qk_int8_sv_f16_accum_f16_attn_inst_buf",
    "qk_int8_sv_f16_accum_f16_fuse_v_mean_attn",
    "qk_int8_sv_f16_accum_f16_fuse_v_mean_attn_fake_impl",
    "qk_int8_sv_f16_accum_f32_attn",
    "sm80_qk_fake_impl",
]
