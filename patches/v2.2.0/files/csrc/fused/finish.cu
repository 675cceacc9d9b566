// What is left to do after a kernel: gives a V back that had to be made smaller, and makes the logsumexp.
//
// SPDX-License-Identifier: Apache-2.0

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "../stable/launch.h"
#include "finish.h"

// Named: a kernel of an unnamed namespace has a name that depends on the folder of the build.
namespace finish {

constexpr int kThreads = 256;
constexpr int kPack = 8;

__device__ __forceinline__ float to_float(half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(nv_bfloat16 value) { return __bfloat162float(value); }
// NaN stays.
__device__ __forceinline__ float within(float value, float most) {
  return value > most ? most : value < -most ? -most : value;
}
__device__ __forceinline__ void set(half &to, float value) { to = __float2half_rn(within(value, 65504.0f)); }
__device__ __forceinline__ void set(nv_bfloat16 &to, float value) {
  to = __float2bfloat16_rn(within(value, 3.3895e38f));
}

template <typename T>
__global__ void ScaleOutputKernel(T *output, const float *scales, int64_t stride_batch, int64_t stride_head,
                                  int64_t stride_token, int tokens, int dim, int q_per_kv) {
  const int head = blockIdx.y, batch = blockIdx.z;
  const float *scale = scales + (int64_t(batch) * (gridDim.y / q_per_kv) + head / q_per_kv) * dim;
  const bool differs = threadIdx.x < dim && scale[threadIdx.x] != 1.0f;
  if (!__syncthreads_or(differs)) return;
  const int across = dim / kPack, channel = threadIdx.x % across * kPack;
  T *base = output + batch * stride_batch + head * stride_head + channel;
  for (int token = blockIdx.x * (kThreads / across) + threadIdx.x / across; token < tokens;
       token += gridDim.x * (kThreads / across)) {
    uint4 *place = reinterpret_cast<uint4 *>(base + token * stride_token);
    uint4 raw = *place;
    T *values = reinterpret_cast<T *>(&raw);
#pragma unroll
    for (int j = 0; j < kPack; j++) set(values[j], to_float(values[j]) * scale[channel + j]);
    *place = raw;
  }
}

__global__ void FinishLseKernel(float *lse, const float *correction, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) lse[i] = fmaf(lse[i], 0.6931471805599453f, correction != nullptr ? correction[i] : 0.0f);
}

}  // namespace finish

using namespace finish;

void finish_lse(const torch::Tensor &lse, const torch::Tensor &correction) {
  const bool corrected = correction.dim() > 0 && correction.numel() > 0;
  TORCH_CHECK(!corrected || correction.sizes() == lse.sizes(), "the shapes of lse and its correction do not fit");
  sage::launch(FinishLseKernel, sage::grid((lse.numel() + kThreads - 1) / kThreads, 1, 1), dim3(kThreads), 0,
               lse.data_ptr<float>(), corrected ? correction.data_ptr<float>() : nullptr, lse.numel());
}

void scale_output(torch::Tensor output, torch::Tensor scale, int tensor_layout) {
  TORCH_CHECK(output.dim() == 4 && scale.dim() == 3 && scale.is_contiguous() && scale.dtype() == torch::kFloat32,
              "output must have 4 dimensions, and scale be contiguous float32 of 3");
  const int tokens_dim = tensor_layout == 0 ? 1 : 2, heads_dim = 3 - tokens_dim;
  const int64_t tokens = output.size(tokens_dim), heads = output.size(heads_dim), dim = output.size(3);
  TORCH_CHECK(scale.size(0) == output.size(0) && scale.size(1) > 0 && heads % scale.size(1) == 0 &&
                  scale.size(2) == dim && (dim == 64 || dim == 128) && output.stride(3) == 1 && tokens <= 2147483647,
              "the shapes of output and scale do not fit");
  const dim3 grid = sage::grid(std::clamp<int64_t>(tokens / 128, 1, 64), heads, output.size(0));
  const auto launch = [&](auto *data) {
    using T = std::remove_pointer_t<decltype(data)>;
    sage::launch(ScaleOutputKernel<T>, grid, dim3(kThreads), 0, data, scale.data_ptr<float>(), output.stride(0),
                 output.stride(heads_dim), output.stride(tokens_dim), tokens, dim, heads / scale.size(1));
  };
  if (output.scalar_type() == torch::ScalarType::Half) {
    launch(output.data_ptr<half>());
  } else {
    TORCH_CHECK(output.scalar_type() == torch::ScalarType::BFloat16, "output must be float16 or bfloat16");
    launch(output.data_ptr<nv_bfloat16>());
  }
}
