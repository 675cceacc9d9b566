// The operators of sageattention/lib/_qattn_sm89.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../stable/bindings.h"

#include "attn_cuda_sm89.h"

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_sm89, m) {
  m.def("qk_int8_sv_f8_accum_f32_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_scale, Tensor value_mean, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f32_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f16_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention_sm89, CUDA, m) {
  m.impl("qk_int8_sv_f8_accum_f32_attn", &sage::boxed<&qk_int8_sv_f8_accum_f32_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_attn_inst_buf", &sage::boxed<&qk_int8_sv_f8_accum_f32_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f16_attn_inst_buf", &sage::boxed<&qk_int8_sv_f8_accum_f16_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf",
         &sage::boxed<&qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf>);
}
