// The operators of attention on Hopper, in place of upstream's: checks their arguments; attention_sm90.cuh computes.
//
// SPDX-License-Identifier: Apache-2.0

#include "attention_sm90.cuh"
#include "attn_cuda_sm90.h"

using torch::Tensor;

namespace {

void check_tensor(const char *name, const Tensor &tensor, torch::ScalarType type, int64_t dims) {
  TORCH_CHECK(tensor.is_cuda(), "Tensor ", name, " must be on CUDA");
  TORCH_CHECK(tensor.dtype() == type, "Tensor ", name, " must have dtype ", type, ", not ", tensor.dtype());
  TORCH_CHECK(tensor.dim() == dims, "Tensor ", name, " must have ", dims, " dimensions, not ", tensor.dim());
  // the scales of Q, K and V have three
  TORCH_CHECK(dims == 4 ? tensor.stride(3) == 1 : tensor.is_contiguous(), "Tensor ", name, " must be contiguous",
              dims == 4 ? " at the last dimension" : "");
}

void check_shape(const char *name, const Tensor &tensor, std::initializer_list<int64_t> shape) {
  std::ostringstream wanted;
  for (const int64_t size : shape) wanted << " " << size;
  TORCH_CHECK(tensor.sizes() == torch::IntArrayRef(shape), "Tensor ", name, " has the wrong shape, not", wanted.str());
}

// v_scale: of each channel, or null.
Tensor attention(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &output, const Tensor &q_scale,
                 const Tensor &k_scale, const Tensor *v_scale, int layout, int is_causal, int granularity,
                 float sm_scale, int return_lse) {
  check_tensor("query", q, torch::kInt8, 4);
  check_tensor("key", k, torch::kInt8, 4);
  check_tensor("value", v, torch::ScalarType::Float8_e4m3fn, 4);
  const bool bfloat16 = output.dtype() == torch::ScalarType::BFloat16;
  check_tensor("output", output, bfloat16 ? torch::ScalarType::BFloat16 : torch::kHalf, 4);
  check_tensor("query_scale", q_scale, torch::kFloat32, 3);
  check_tensor("key_scale", k_scale, torch::kFloat32, 3);
  TORCH_CHECK(layout == 0 || layout == 1, "Unsupported tensor layout: ", layout);
  TORCH_CHECK(is_causal == 0 || is_causal == 1, "Unsupported causal mode: ", is_causal);
  TORCH_CHECK(granularity == 2 || granularity == 3, "Unsupported qk_quant_gran: ", granularity);

  // In V, channels stand where tokens do in the others.
  const int tokens = layout == 0 ? 1 : 2, heads = 3 - tokens;
  const int64_t batch = q.size(0), q_len = q.size(tokens), q_heads = q.size(heads), head_dim = q.size(3);
  const int64_t kv_len = k.size(tokens), kv_heads = k.size(heads);
  const int64_t units = (q_len + sage::hopper::kRows - 1) / sage::hopper::kRows;
  const int64_t blocks = (kv_len + sage::hopper::kKeys - 1) / sage::hopper::kKeys;
  TORCH_CHECK(head_dim == 64 || head_dim == 128, "Unsupported head dim: ", head_dim);
  TORCH_CHECK(kv_heads > 0 && q_heads % kv_heads == 0, "num_qo_heads (", q_heads,
              ") must be divisible by num_kv_heads (", kv_heads, ")");
  TORCH_CHECK(std::max(q_len, kv_len) < INT_MAX - 256, "too long: ", q_len, " or ", kv_len, " tokens");
  if (layout == 0) {
    check_shape("key", k, {batch, kv_len, kv_heads, head_dim});
    check_shape("output", output, {batch, q_len, q_heads, head_dim});
  } else {
    check_shape("key", k, {batch, kv_heads, kv_len, head_dim});
    check_shape("output", output, {batch, q_heads, q_len, head_dim});
  }
  TORCH_CHECK(v.size(0) == batch && v.size(tokens) == head_dim && v.size(heads) == kv_heads &&
                  v.size(3) >= blocks * sage::hopper::kKeys,
              "Tensor value has the wrong shape: its tokens come last, padded to a multiple of ", sage::hopper::kKeys);
  const bool per_thread = granularity == 3;
  check_shape("query_scale", q_scale, {batch, q_heads, units * (per_thread ? 32 : 4)});
  check_shape("key_scale", k_scale, {batch, kv_heads, blocks * (per_thread ? 4 : 1)});
  if (v_scale != nullptr) {
    check_tensor("value_scale", *v_scale, torch::kFloat32, 3);
    check_shape("value_scale", *v_scale, {batch, kv_heads, head_dim});
  }

  const torch::TensorOptions floats = q.options().dtype(torch::kFloat32);
  const Tensor lse = return_lse ? torch::empty({batch, q_heads, q_len}, floats) : torch::empty({0}, floats);
  if (output.numel() == 0) return lse;

  sage::hopper::Task task = {};
  task.q_scale = q_scale.data_ptr<float>(), task.k_scale = k_scale.data_ptr<float>();
  task.v_scale = v_scale == nullptr ? nullptr : v_scale->data_ptr<float>();
  task.output = output.data_ptr(), task.lse = return_lse ? lse.data_ptr<float>() : nullptr;
  task.output_batch = output.stride(0), task.output_head = output.stride(heads);
  task.output_token = output.stride(tokens);
  task.q_scale_head = q_scale.size(2), task.k_scale_head = k_scale.size(2);
  task.q_len = q_len, task.kv_len = kv_len, task.units = units;
  task.heads = q_heads, task.kv_heads = kv_heads, task.group = q_heads / kv_heads, task.all_heads = batch * q_heads;
  task.scale = sm_scale * 1.44269504f;
  task.causal = is_causal, task.bfloat16 = bfloat16, task.per_thread = per_thread;
  const auto launch = head_dim == 64 ? sage::hopper::launch<64> : sage::hopper::launch<128>;
  launch(task, {q, tokens, heads}, {k, tokens, heads}, {v, tokens, heads});
  return lse;
}

}  // namespace

Tensor qk_int8_sv_f8_accum_f32_attn_inst_buf(Tensor query, Tensor key, Tensor value, Tensor output, Tensor query_scale,
                                             Tensor key_scale, int tensor_layout, int is_causal, int qk_quant_gran,
                                             float sm_scale, int return_lse) {
  return attention(query, key, value, output, query_scale, key_scale, nullptr, tensor_layout, is_causal, qk_quant_gran,
                   sm_scale, return_lse);
}

Tensor qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf(Tensor query, Tensor key, Tensor value, Tensor output,
                                                          Tensor query_scale, Tensor key_scale, Tensor value_scale,
                                                          int tensor_layout, int is_causal, int qk_quant_gran,
                                                          float sm_scale, int return_lse) {
  return attention(query, key, value, output, query_scale, key_scale, &value_scale, tensor_layout, is_causal,
                   qk_quant_gran, sm_scale, return_lse);
}
