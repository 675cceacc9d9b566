// cuTensorMapEncodeTiled, found in the driver at the first call: the library then needs no libcuda.so.1
// to load, and imports where there is no driver.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "torch.h"

namespace sage {

inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static const auto encoder = [] {
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
    cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    TORCH_CHECK(found == cudaDriverEntryPointSuccess && entry != nullptr,
                "the CUDA driver has no cuTensorMapEncodeTiled: it is older than CUDA 12.0");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return encoder;
}

}  // namespace sage
