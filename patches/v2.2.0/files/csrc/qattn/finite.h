// Rounds to 16 bits: what is too large becomes the largest number, and NaN stays.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace sage {

__device__ __forceinline__ half2 finite_half2(float2 value) {
  const half2 most = __float2half2_rn(65504.0f);
  return __hmax2_nan(__hmin2_nan(__float22half2_rn(value), most), __hneg2(most));
}

__device__ __forceinline__ nv_bfloat162 finite_bfloat162(float2 value) {
  const nv_bfloat162 most = __float2bfloat162_rn(3.3895314e38f);
  return __hmax2_nan(__hmin2_nan(__float22bfloat162_rn(value), most), __hneg2(most));
}

}  // namespace sage
