// The operators of sageattention/lib/_qattn_sm80.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../fused/attention.h"
#include "../stable/bindings.h"

#include "attn_cuda_sm80.h"

using torch::Tensor;

static std::tuple<Tensor, Tensor> attention(Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal,
                                            int qk_quant_gran, float sm_scale, int smooth_k, int return_lse,
                                            int pv_accum, int smooth_v) {
  TORCH_CHECK(qk_quant_gran == 2 || qk_quant_gran == 3, "qk_quant_gran is ", qk_quant_gran, ", not 2 or 3");
  TORCH_CHECK(pv_accum >= 0 && pv_accum <= 2, "pv_accum is ", pv_accum, ", not 0 (fp32), 1 (fp16+fp32) or 2 (fp16)");
  const int64_t head_dim = q.size(-1), kv_tokens = k.size(tensor_layout == 0 ? 1 : 2);
  float limit = 65504.0f;
  if (pv_accum != 0) limit = 512.0f;  // a sum of 64 products of weights up to 1 with these fits into float16
  if (pv_accum == 2) {
    // Here all weights of a row are summed in float16: at most as many as there are keys.
    while (limit * kv_tokens > 32768.0f) limit /= 2;
  }
  const bool as_it_lies =
      pv_accum == 0 && v.scalar_type() == torch::kHalf && (head_dim == 64 || head_dim == 128) && in_packs(v);
  const bool sixteen_rows = pv_accum == 1 && head_dim > 64;
  const Wanted wanted{static_cast<Granularity>(qk_quant_gran),
                      128,
                      sixteen_rows ? 16 : 32,
                      64,
                      as_it_lies ? VMode::kUntouched : VMode::kFloat16,
                      limit,
                      smooth_k != 0,
                      pv_accum == 2 && smooth_v != 0,
                      sm_scale,
                      false,
                      return_lse != 0};
  return sage::attention(q, k, v, tensor_layout, wanted, [&](const Prepared &made, Tensor output, float scale) {
    Tensor lse;
    if (wanted.smooth_v) {
      lse = qk_int8_sv_f16_accum_f16_fuse_v_mean_attn(made.q, made.k, made.v, output, made.q_scale, made.k_scale,
                                                      made.v_mean, 1, is_causal, qk_quant_gran, scale, return_lse);
    } else {
      const auto attend = pv_accum == 0   ? qk_int8_sv_f16_accum_f32_attn
                          : pv_accum == 1 ? qk_int8_sv_f16_accum_f16_attn_inst_buf
                                          : qk_int8_sv_f16_accum_f16_attn;
      lse = attend(made.q, made.k, made.v, output, made.q_scale, made.k_scale, 1, is_causal, qk_quant_gran, scale,
                   return_lse);
    }
    if (!as_it_lies) scale_output(output, made.v_scale, 1);
    return lse;
  });
}

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention, m) {
  m.def("attention("
        "Tensor q, Tensor k, Tensor v, int tensor_layout, int is_causal, int qk_quant_gran, float sm_scale, "
        "int smooth_k, "
        "int return_lse, int pv_accum, int smooth_v) -> (Tensor, Tensor)");
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
  m.impl("attention", &sage::boxed<&attention>);
  m.impl("qk_int8_sv_f16_accum_f32_attn", &sage::boxed<&qk_int8_sv_f16_accum_f32_attn>);
  m.impl("qk_int8_sv_f16_accum_f16_attn", &sage::boxed<&qk_int8_sv_f16_accum_f16_attn>);
  m.impl("qk_int8_sv_f16_accum_f16_attn_inst_buf", &sage::boxed<&qk_int8_sv_f16_accum_f16_attn_inst_buf>);
  m.impl("qk_int8_sv_f16_accum_f16_fuse_v_mean_attn", &sage::boxed<&qk_int8_sv_f16_accum_f16_fuse_v_mean_attn>);
}
