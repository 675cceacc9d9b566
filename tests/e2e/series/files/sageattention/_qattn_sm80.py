import torch

from ._library import load

load("_qattn_sm80")

mini_attn = torch.ops.sageattention.mini_attn.default
