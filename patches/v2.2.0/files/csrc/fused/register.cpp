// The operators of sageattention/lib/_fused.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../stable/bindings.h"

#include "fused.h"
#include "finish.h"
#include "prepare.h"

using torch::Tensor;

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

static Eight prepare_apart(Tensor q, Tensor k, Tensor v, int granularity, int q_block, int q_rows, int k_rows,
                           int v_mode, float v_limit, int smooth_k, int smooth_v, float sm_scale, int fold_scale,
                           int correct) {
  TORCH_CHECK(granularity >= 1 && granularity <= 3 && v_mode >= 0 && v_mode <= 2, "unknown granularity or kind of V");
  const Wanted wanted{static_cast<Granularity>(granularity),
                      q_block,
                      q_rows,
                      k_rows,
                      static_cast<VMode>(v_mode),
                      v_limit,
                      smooth_k != 0,
                      smooth_v != 0,
                      sm_scale,
                      fold_scale != 0,
                      correct != 0};
  const Prepared made = prepare(q, k, v, wanted, true);
  return {made.q, made.q_scale, made.k, made.k_scale, made.v, made.v_scale, made.v_mean, made.correction};
}

static Tensor no_backward(Tensor, Tensor) {
  throw std::runtime_error("SageAttention has no backward pass: use torch's scaled_dot_product_attention to train, or "
                           "call it under torch.no_grad()");
}

STABLE_TORCH_LIBRARY_FRAGMENT(sageattention_fused, m) {
  m.def("quant_per_block_int8_cuda("
        "Tensor input, Tensor(a!) output, Tensor(b!) scale, int block_size, int tensor_layout) -> ()");
  m.def("quant_per_block_int8_cuda.sm_scale("
        "Tensor input, Tensor(a!) output, Tensor(b!) scale, float sm_scale, int block_size, int tensor_layout) -> ()");
  m.def("quant_per_block_int8_fuse_sub_mean_cuda("
        "Tensor input, Tensor mean, Tensor(a!) output, Tensor(b!) scale, int block_size, int tensor_layout) -> ()");
  m.def("quant_per_warp_int8_cuda("
        "Tensor input, Tensor(a!) output, Tensor(b!) scale, int block_size, int warp_block_size, int tensor_layout) "
        "-> ()");
  m.def("sub_mean_cuda(Tensor input, Tensor mean, Tensor(a!) output, int tensor_layout) -> ()");
  m.def("transpose_pad_permute_cuda(Tensor input, Tensor(a!) output, int tensor_layout) -> ()");
  m.def("scale_fuse_quant_cuda("
        "Tensor input, Tensor(a!) output, Tensor(b!) scale, int num_tokens, float scale_max, int tensor_layout) -> ()");
  m.def("mean_scale_fuse_quant_cuda("
        "Tensor input, Tensor(a!) output, Tensor(b!) mean, Tensor(c!) scale, int num_tokens, float scale_max, "
        "int tensor_layout) -> ()");
  m.def(
      "prepare("
      "Tensor q, Tensor k, Tensor v, int granularity, int q_block, int q_rows, int k_rows, int v_mode, float v_limit, "
      "int smooth_k, int smooth_v, float sm_scale, int fold_scale, int correct) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("scale_output(Tensor(a!) output, Tensor scale, int tensor_layout) -> ()");
  m.def("no_backward(Tensor gradient, Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sageattention_fused, CUDA, m) {
  // Two functions of one name: the types say which.
  using Plain = void (*)(Tensor, Tensor, Tensor, int, int);
  using Scaled = void (*)(Tensor, Tensor, Tensor, float, int, int);
  m.impl("quant_per_block_int8_cuda", &sage::boxed<static_cast<Plain>(&quant_per_block_int8_cuda)>);
  m.impl("quant_per_block_int8_cuda.sm_scale", &sage::boxed<static_cast<Scaled>(&quant_per_block_int8_cuda)>);
  m.impl("quant_per_block_int8_fuse_sub_mean_cuda", &sage::boxed<&quant_per_block_int8_fuse_sub_mean_cuda>);
  m.impl("quant_per_warp_int8_cuda", &sage::boxed<&quant_per_warp_int8_cuda>);
  m.impl("sub_mean_cuda", &sage::boxed<&sub_mean_cuda>);
  m.impl("transpose_pad_permute_cuda", &sage::boxed<&transpose_pad_permute_cuda>);
  m.impl("scale_fuse_quant_cuda", &sage::boxed<&scale_fuse_quant_cuda>);
  m.impl("mean_scale_fuse_quant_cuda", &sage::boxed<&mean_scale_fuse_quant_cuda>);
  m.impl("prepare", &sage::boxed<&prepare_apart>);
  m.impl("scale_output", &sage::boxed<&scale_output>);
  m.impl("no_backward", &sage::boxed<&no_backward>);
}
