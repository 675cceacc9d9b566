# SPDX-License-Identifier: Apache-2.0
"""Attention with int8 QK and fp8 PV on Hopper's instructions, for compute capability 9.0; `attention` prepares its inputs too."""

from ._library import attend_fake, attention_fake, operators

globals().update(operators("_qattn_sm90", "sageattention_sm90", {"attention": attend_fake}, attention_fake))
