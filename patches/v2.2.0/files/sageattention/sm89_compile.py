# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's custom operators had here; _qattn_sm89 registers the operators."""

from . import _qattn_sm89
from ._library import attention_fake

sm89_qk_with_key_value = attention_fake
sm89_qk_with_key_value_mean = attention_fake
globals().update({name: value for name, value in vars(_qattn_sm89).items() if name.startswith("qk_")})
