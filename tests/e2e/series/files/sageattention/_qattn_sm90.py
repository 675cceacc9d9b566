import torch

from ._library import load

load("_qattn_sm90")

mini_barrier = torch.ops.sageattention_sm90.mini_barrier.default
