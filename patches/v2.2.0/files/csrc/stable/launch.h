// Launches a kernel: every launch of the extensions goes through here.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda_runtime.h>

#include "torch.h"

namespace sage {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    cudaGetLastError();  // reported here: it must not be found again by the next to ask
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
  }
}

// CUDA's limits: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities
inline dim3 grid(int64_t x, int64_t y, int64_t z) {
  TORCH_CHECK(x <= 2147483647 && y <= 65535 && z <= 65535,
              "too many heads or batches, or too long: the kernel needs a grid of ", x, " x ", y, " x ", z,
              " blocks, and CUDA has 2147483647 x 65535 x 65535");
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

// Takes the kernel's arguments as the host code has them, and converts them to the kernel's types.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Arguments &...arguments) {
  kernel<<<grid, block, shared_bytes, torch::current_stream()>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError());
}

}  // namespace sage
