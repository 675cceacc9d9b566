# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here; _qattn_sm90 registers the operators."""

from . import _qattn_sm90
from ._library import attention_fake

qk_int8_sv_f8_accum_f32_attn_inst_buf_fake_impl = attention_fake
# Its absence is taken for the fault of the release, whose fake operator has the name of the real one.
qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf_fake_impl = attention_fake
globals().update({name: value for name, value in vars(_qattn_sm90).items() if name.startswith("qk_")})
