#pragma once
#include <torch/extension.h>

void mini_clamp(torch::Tensor output, float limit);
