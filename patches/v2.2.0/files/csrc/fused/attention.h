// Attention as one operator: Q, K and V are prepared, and a kernel computes.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <tuple>

#include "finish.h"
#include "prepare.h"

namespace sage {

// Returns the output, with the head dim padded to 64 or 128, and the logsumexp, empty if it was not asked for.
//
// tensor_layout: 0 for [batch, tokens, heads, head dim], 1 for [batch, heads, tokens, head dim].
// attend: takes what was prepared, the output as [batch, heads, tokens, head dim], and the softmax scale; returns the
//   logsumexp to the base of 2.
template <typename Attend>
std::tuple<torch::Tensor, torch::Tensor> attention(torch::Tensor q, torch::Tensor k, torch::Tensor v, int tensor_layout,
                                                   const Wanted &wanted, Attend attend) {
  const bool tokens_first = tensor_layout == 0;
  if (tokens_first) q = q.transpose(1, 2), k = k.transpose(1, 2), v = v.transpose(1, 2);
  Prepared prepared = prepare(q, k, v, wanted, false);
  if (wanted.v_mode == VMode::kUntouched) prepared.v = v;
  const int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2), dim = prepared.q.size(3);
  const torch::Tensor output = tokens_first ? torch::empty({batch, tokens, heads, dim}, q.options())
                                            : torch::empty({batch, heads, tokens, dim}, q.options());
  const torch::Tensor lse =
      attend(prepared, tokens_first ? output.transpose(1, 2) : output, scale_in_kernel(wanted.sm_scale));
  if (lse.numel() > 0) finish_lse(lse, prepared.correction);
  return {output, lse};
}

}  // namespace sage
