// The operators of sageattention/lib/_qattn_sm89.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../fused/attention.h"
#include "../stable/bindings.h"

#include "attn_cuda_sm89.h"

using torch::Tensor;

static std::tuple<Tensor, Tensor> attention(Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal,
                                            int qk_quant_gran, float sm_scale, int smooth_k, int return_lse,
                                            int pv_accum, int smooth_v) {
  TORCH_CHECK(qk_quant_gran == 2 || qk_quant_gran == 3, "qk_quant_gran is ", qk_quant_gran, ", not 2 or 3");
  TORCH_CHECK(pv_accum >= 0 && pv_accum <= 2, "pv_accum is ", pv_accum,
              ", not 0 (fp32), 1 (fp32+fp32) or 2 (fp32+fp16)");
  // With float16 inside an instruction, the sum of its products has to fit.
  const Wanted wanted{static_cast<Granularity>(qk_quant_gran),
                      128,
                      32,
                      64,
                      VMode::kFloat8,
                      pv_accum == 2 ? 2.25f : 448.0f,
                      smooth_k != 0,
                      pv_accum == 0 && smooth_v != 0,
                      sm_scale,
                      false,
                      return_lse != 0};
  return sage::attention(q, k, v, tensor_layout, wanted, [&](const Prepared &made, Tensor output, float scale) {
    if (wanted.smooth_v) {
      return qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn(made.q, made.k, made.v, output, made.q_scale,
                                                                   made.k_scale, made.v_scale, made.v_mean, 1,
                                                                   is_causal, qk_quant_gran, scale, return_lse);
    }
    const auto attend = pv_accum == 0   ? qk_int8_sv_f8_accum_f32_fuse_v_scale_attn
                        : pv_accum == 1 ? qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf
                                        : qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf;
    return attend(made.q, made.k, made.v, output, made.q_scale, made.k_scale, made.v_scale, 1, is_causal, qk_quant_gran,
                  scale, return_lse);
  });
}

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_sm89, m) {
  m.def("attention("
        "Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, "
        "int smooth_k, "
        "int return_lse, int pv_accum, int smooth_v) -> (Tensor, Tensor)");
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
  m.impl("attention", &sage::boxed<&attention>);
  m.impl("qk_int8_sv_f8_accum_f32_attn", &sage::boxed<&qk_int8_sv_f8_accum_f32_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn", &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn>);
  m.impl("qk_int8_sv_f8_accum_f32_attn_inst_buf", &sage::boxed<&qk_int8_sv_f8_accum_f32_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f16_attn_inst_buf", &sage::boxed<&qk_int8_sv_f8_accum_f16_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
         &sage::boxed<&qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf>);
  m.impl("qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf",
         &sage::boxed<&qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf>);
}
