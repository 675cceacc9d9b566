#include "../stable/bindings.h"

#include "attn_cuda_sm80.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention, m) {
  m.def("mini_attn(Tensor query, Tensor key, Tensor value, Tensor(a!) output, int is_causal, float sm_scale, "
        "int return_lse) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention, CUDA, m) { m.impl("mini_attn", &sage::boxed<&mini_attn>); }
