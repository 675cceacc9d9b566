// What is left to do after a kernel.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include "../stable/torch.h"

// Multiplies an output by a scale for each channel. output: [batch, tokens, heads, head dim] for the layout 0, [batch,
// heads, tokens, head dim] for 1. scale: float32 [batch, heads, head dim], of as many heads as divide those of the
// output; where all of a head's are 1, the output is not read.
void scale_output(torch::Tensor output, torch::Tensor scale, int tensor_layout);

// Makes the natural logarithm of one to the base of 2, and adds the correction, unless that is empty.
void finish_lse(const torch::Tensor &lse, const torch::Tensor &correction);
