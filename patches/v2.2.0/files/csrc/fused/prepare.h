// Prepares Q, K and V for attention.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <algorithm>
#include <cmath>

#include "../stable/torch.h"

enum class Granularity { kPerBlock = 1, kPerWarp = 2, kPerThread = 3 };  // as the kernels number them
enum class VMode { kUntouched = 0, kFloat16 = 1, kFloat8 = 2 };

// What a kernel wants.
struct Wanted {
  // Of the scales of Q and K. Per block and per warp: one for q_rows rows of Q, one for k_rows of K; per thread: as
  // each thread of an attention kernel wants them, 8 for q_rows and 4 for k_rows. Rows of Q are padded to a multiple
  // of q_block.
  Granularity granularity;
  int q_block, q_rows, k_rows;  // 64 or 128; 16, 32 or, but per thread, 128; 64 or 128
  // float16: times a power of two where a channel passes v_limit, or is too small for float16; float8: e4m3,
  // transposed, padded to a multiple of k_rows, its tokens in the kernels' order, with v_limit as the largest value.
  VMode v_mode;
  float v_limit;
  // Subtract the mean over the tokens.
  bool smooth_k, smooth_v;
  // Of the softmax. fold_scale: Q is multiplied by it, in units of log 2, as the Triton kernels want it; otherwise by
  // what is left of it with the kernel's own scale, which is scale_in_kernel().
  float sm_scale;
  bool fold_scale;
  // Make the correction of the logsumexp: sm_scale times Q times K's mean, which smooth_k takes from it.
  bool correct;
};

// Contiguous, [batch, heads, tokens, head dim] with the head dim padded to 64 or 128; V for float8 [.., head dim,
// tokens]. Q and K are multiplied by one Hadamard matrix before they become int8, by which outliers of a few channels
// are spread over all; the product of both, times their scales, is that of Q and K. Scales and means are float32 of 3
// dimensions, but v_mean has V's own type for float16. v_scale gives V back. Those that were not asked for are empty.
struct Prepared {
  torch::Tensor q, q_scale, k, k_scale, v, v_scale, v_mean, correction;
};

// The softmax scale to give to a kernel: positive, since it finds a row's largest product before it multiplies by it,
// and not small, since the -5e6 that it puts in place of a masked product is multiplied by it too. The common one,
// 1 / sqrt(head dim), is what was asked for.
inline float scale_in_kernel(float sm_scale) { return std::max(std::fabs(sm_scale), 0.088f); }

// Whether a tensor of 4 dimensions of float16 or bfloat16 can be read 16 bytes at a time as it lies: the first
// element's address and all strides are multiples of that.
bool in_packs(const torch::Tensor &tensor);

// Takes q [batch, heads, tokens, head dim], k and v (heads of K and V) of any strides. apart: each tensor has memory
// of its own; otherwise all are parts of one.
Prepared prepare(const torch::Tensor &q, const torch::Tensor &k, const torch::Tensor &v, const Wanted &wanted,
                 bool apart);
