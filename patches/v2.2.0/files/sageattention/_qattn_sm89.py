# SPDX-License-Identifier: Apache-2.0
"""Attention with int8 QK and fp8 PV, for compute capability 8.9 and later; `attention` prepares its inputs too."""

from ._library import attend_fake, attention_fake, operators

globals().update(operators("_qattn_sm89", "sageattention_sm89", {"attention": attend_fake}, attention_fake))
