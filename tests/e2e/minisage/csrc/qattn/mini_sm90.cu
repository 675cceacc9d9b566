// Uses an instruction that ptxas refuses below sm_90, as the Hopper kernels do.
#include "attn_cuda_sm90.h"

__global__ void mini_barrier_kernel(float *output)
{
  __shared__ uint64_t barrier;
  const uint32_t pointer = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  if (threadIdx.x == 0)
  {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(pointer));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 0;\n" ::"r"(pointer));
    output[0] = 1.0f;
  }
}

void mini_barrier(torch::Tensor output)
{
  mini_barrier_kernel<<<dim3(1), dim3(32)>>>(reinterpret_cast<float*>(output.data_ptr()));
}
