#include <cuda_fp16.h>
#include "fused.h"

__global__ void scale_kernel(const half *input, half *output, const float scale, const int64_t count)
{
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count)
  {
    output[i] = __float2half(__half2float(input[i]) * scale);
  }
}

void scale_cuda(torch::Tensor input, torch::Tensor output, float scale)
{
  TORCH_CHECK(input.numel() == output.numel(), "input and output must have the same size");
  scale_kernel<<<dim3((input.numel() + 255) / 256), dim3(256)>>>(
    reinterpret_cast<half*>(input.data_ptr()), reinterpret_cast<half*>(output.data_ptr()), scale, input.numel());
}
