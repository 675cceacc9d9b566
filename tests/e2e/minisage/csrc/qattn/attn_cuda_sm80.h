#pragma once
#include <torch/extension.h>

torch::Tensor mini_attn(torch::Tensor query, torch::Tensor key, torch::Tensor value, torch::Tensor output,
                        int is_causal, float sm_scale, int return_lse);
