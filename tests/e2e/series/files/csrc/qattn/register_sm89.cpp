#include "../stable/bindings.h"

#include "attn_cuda_sm89.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_sm89, m) { m.def("mini_clamp(Tensor(a!) output, float limit) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(sageattention_sm89, CUDA, m) { m.impl("mini_clamp", &sage::boxed<&mini_clamp>); }
