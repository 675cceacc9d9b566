// The operators of sageattention/lib/_qattn_sm90.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../fused/attention.h"
#include "../stable/bindings.h"

#include "attn_cuda_sm90.h"

using torch::Tensor;

static std::tuple<Tensor, Tensor> attention(Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal,
                                            int qk_quant_gran, float sm_scale, int smooth_k, int return_lse,
                                            int pv_accum, int smooth_v) {
  TORCH_CHECK(qk_quant_gran == 2 || qk_quant_gran == 3, "qk_quant_gran is ", qk_quant_gran, ", not 2 or 3");
  TORCH_CHECK(pv_accum == 1 && !smooth_v, "pv_accum is ", pv_accum, ", not 1 (fp32+fp32), or smooth_v is asked for");
  const Wanted wanted{static_cast<Granularity>(qk_quant_gran),
                      64,
                      16,
                      128,
                      VMode::kFloat8,
                      448.0f,
                      smooth_k != 0,
                      false,
                      sm_scale,
                      false,
                      return_lse != 0};
  return sage::attention(q, k, v, tensor_layout, wanted, [&](const Prepared &made, Tensor output, float scale) {
    return qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf(made.q, made.k, made.v, output, made.q_scale,
                                                              made.k_scale, made.v_scale, 1, is_causal, qk_quant_gran,
                                                              scale, return_lse);
  });
}

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_sm90, m) {
  m.def("attention("
        "Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, "
        "int smooth_k, "
        "int return_lse, int pv_accum, int smooth_v) -> (Tensor, Tensor)");
  m.def("qk_int8_sv_f8_accum_f32_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
  m.def("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf("
        "Tensor query, Tensor key, Tensor value, Tensor(a!) output, Tensor query_scale, Tensor key_scale, "
        "Tensor value_scale, "
        "int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, int return_lse) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention_sm90, CUDA, m) {
  m.impl("attention", &sage::boxed<&attention>);
  m.impl("qk_int8_sv_f8_accum_f32_attn_inst_buf", &sage::boxed<&qk_int8_sv_f8_accum_f32_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf>);
}
