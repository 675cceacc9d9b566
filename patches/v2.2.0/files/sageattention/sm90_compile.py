# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here. The operators are registered by _qattn_sm90's library."""

from ._library import attention_fake as qk_int8_sv_f8_accum_f32_attn_inst_buf_fake_impl
from ._qattn_sm90 import (
    qk_int8_sv_f8_accum_f32_attn_inst_buf,
    qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf,
)

__all__ = [
    "qk_int8_sv_f8_accum_f32_attn_inst_buf",
    "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
    "qk_int8_sv_f8_accum_f32_attn_inst_buf_fake_impl",
]
