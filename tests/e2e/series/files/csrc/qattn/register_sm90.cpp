#include "../stable/bindings.h"

#include "attn_cuda_sm90.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_sm90, m) { m.def("mini_barrier(Tensor(a!) output) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(sageattention_sm90, CUDA, m) { m.impl("mini_barrier", &sage::boxed<&mini_barrier>); }
