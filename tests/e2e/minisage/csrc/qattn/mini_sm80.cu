// Exact attention, one thread a query row and value column: for its shape, not its speed.
#include <cuda_fp16.h>
#include "attn_cuda_sm80.h"

template <bool IS_CAUSAL>
__global__ void mini_attn_kernel(const half *Q, const half *K, const half *V, half *O, float *Lse, const uint32_t qo_len,
                                 const uint32_t kv_len, const uint32_t head_dim, const float sm_scale)
{
  const uint32_t row = blockIdx.x, head = blockIdx.y, column = threadIdx.x;
  const half *q = Q + (size_t(head) * qo_len + row) * head_dim;
  const uint32_t last = IS_CAUSAL ? min(row + 1, kv_len) : kv_len;
  float largest = -INFINITY, sum = 0.0f, out = 0.0f;
  for (uint32_t token = 0; token < last; token++)
  {
    const half *k = K + (size_t(head) * kv_len + token) * head_dim;
    float score = 0.0f;
    for (uint32_t i = 0; i < head_dim; i++)
    {
      score += __half2float(q[i]) * __half2float(k[i]);
    }
    score *= sm_scale;
    const float next = fmaxf(largest, score), old = __expf(largest - next), now = __expf(score - next);
    sum = sum * old + now;
    out = out * old + now * __half2float(V[(size_t(head) * kv_len + token) * head_dim + column]);
    largest = next;
  }
  O[(size_t(head) * qo_len + row) * head_dim + column] = __float2half(out / sum);
  if (Lse != nullptr && column == 0)
  {
    Lse[head * qo_len + row] = largest + __logf(sum);
  }
}

torch::Tensor mini_attn(torch::Tensor query, torch::Tensor key, torch::Tensor value, torch::Tensor output,
                        int is_causal, float sm_scale, int return_lse)
{
  const int heads = query.size(0) * query.size(1);
  const int qo_len = query.size(2);
  torch::Tensor lse = torch::empty({return_lse ? int64_t(heads) * qo_len : 0}, query.options().dtype(torch::kFloat32));
  auto *kernel = is_causal ? &mini_attn_kernel<true> : &mini_attn_kernel<false>;
  kernel<<<dim3(qo_len, heads), dim3(query.size(3))>>>(
    reinterpret_cast<half*>(query.data_ptr()), reinterpret_cast<half*>(key.data_ptr()),
    reinterpret_cast<half*>(value.data_ptr()), reinterpret_cast<half*>(output.data_ptr()),
    return_lse ? reinterpret_cast<float*>(lse.data_ptr()) : nullptr,
    qo_len, key.size(2), query.size(3), sm_scale);
  return lse;
}
