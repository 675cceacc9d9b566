// The operators of sageattention/lib/_fused.so.
//
// SPDX-License-Identifier: Apache-2.0

#include "../stable/bindings.h"

#include "fused.h"

using torch::Tensor;

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
}
