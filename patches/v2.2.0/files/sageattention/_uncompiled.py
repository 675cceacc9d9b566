# SPDX-License-Identifier: Apache-2.0
"""Packed sequences outside of torch.compile's graph; imported while that compiles, since it takes seconds otherwise."""

import torch

from . import _varlen

packed_attention = torch.compiler.disable(_varlen.attention)
