// Rounds to fp8 with the instruction of compute capability 8.9.
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include "attn_cuda_sm89.h"

__global__ void mini_clamp_kernel(half *output, const float limit, const int64_t count)
{
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count)
  {
    const float value = fminf(fmaxf(__half2float(output[i]), -limit), limit);
    output[i] = __float2half(float(__nv_fp8_e4m3(value)));
  }
}

void mini_clamp(torch::Tensor output, float limit)
{
  mini_clamp_kernel<<<dim3((output.numel() + 255) / 256), dim3(256)>>>(
    reinterpret_cast<half*>(output.data_ptr()), limit, output.numel());
}
