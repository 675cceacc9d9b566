// The operators of sageattention/lib/_qattn_sm80.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../stable/bindings.h"

#include "attn_cuda_sm80.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention, m) {
  m.def("qk_int8_sv_f16_accum_f32_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f16_accum_f16_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f16_accum_f16_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f16_accum_f16_fuse_v_mean_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_mean, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention, CUDA, m) {
  m.impl("qk_int8_sv_f16_accum_f32_attn", &sage::boxed<&qk_int8_sv_f16_accum_f32_attn>);
  m.impl("qk_int8_sv_f16_accum_f16_attn", &sage::boxed<&qk_int8_sv_f16_accum_f16_attn>);
  m.impl("qk_int8_sv_f16_accum_f16_attn_inst_buf", &sage::boxed<&qk_int8_sv_f16_accum_f16_attn_inst_buf>);
  m.impl("qk_int8_sv_f16_accum_f16_fuse_v_mean_attn",
         &sage::boxed<&qk_int8_sv_f16_accum_f16_fuse_v_mean_attn>);
}
