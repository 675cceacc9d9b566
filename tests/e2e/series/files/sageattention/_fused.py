import torch

from ._library import load

load("_fused")

scale_cuda = torch.ops.sageattention_fused.scale_cuda.default
