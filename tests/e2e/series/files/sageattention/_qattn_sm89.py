import torch

from ._library import load

load("_qattn_sm89")

mini_clamp = torch.ops.sageattention_sm89.mini_clamp.default
