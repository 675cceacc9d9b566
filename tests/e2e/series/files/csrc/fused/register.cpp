#include "../stable/bindings.h"

#include "fused.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_fused, m) {
  m.def("scale_cuda(Tensor input, Tensor(a!) output, float scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention_fused, CUDA, m) { m.impl("scale_cuda", &sage::boxed<&scale_cuda>); }
