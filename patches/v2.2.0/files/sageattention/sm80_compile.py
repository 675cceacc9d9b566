# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here; _qattn_sm80 registers the operators."""

from . import _qattn_sm80
from ._library import attention_fake

sm80_qk_fake_impl = attention_fake
qk_int8_sv_f16_accum_f16_fuse_v_mean_attn_fake_impl = attention_fake
globals().update({name: value for name, value in vars(_qattn_sm80).items() if name.startswith("qk_")})
