import torch

from . import _fused, _qattn_sm80


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False):
    if tensor_layout != "HND":
        raise ValueError(f"tensor_layout {tensor_layout} not supported")
    output, scaled = torch.empty_like(q), torch.empty_like(q)
    _fused.scale_cuda(q.contiguous(), scaled, q.size(-1) ** -0.5 if sm_scale is None else sm_scale)
    lse = _qattn_sm80.mini_attn(scaled, k.contiguous(), v.contiguous(), output, int(is_causal), 1.0, int(return_lse))
    return (output, lse.view(q.shape[:3])) if return_lse else output
