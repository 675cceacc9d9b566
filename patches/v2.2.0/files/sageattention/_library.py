# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled libraries, and tells torch.compile the shapes of what their operators return."""

from pathlib import Path
from typing import Any

import torch


def load(name: str) -> None:
    """Load `lib/<name>.so`, which registers its operators.

    Raises:
        ModuleNotFoundError: This build holds no such library: none of its architectures has those kernels.
        OSError: The library is there and can't be loaded; the message says why.
    """
    path = Path(__file__).parent / "lib" / f"{name}.so"
    if not path.is_file():
        message = f"this build has no {path.name}: none of its architectures has those kernels"
        raise ModuleNotFoundError(message, name=f"sageattention.{name}", path=str(path))
    torch.ops.load_library(str(path))


def attention_fake(query: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """The logsumexp that an attention operator returns: without data, and empty if it was not asked for.

    The last five arguments of each are tensor_layout, is_causal, qk_quant_gran, sm_scale, return_lse.
    """
    tensor_layout, return_lse = arguments[-5], arguments[-1]
    if not return_lse:
        return query.new_empty((0,), dtype=torch.float32)
    seq_dim, head_dim = (1, 2) if tensor_layout == 0 else (2, 1)
    return query.new_empty((query.size(0), query.size(head_dim), query.size(seq_dim)), dtype=torch.float32)


def quantisation_fake(*arguments: Any) -> None:
    """A quantisation operator returns nothing: it writes to tensors that it is given."""
