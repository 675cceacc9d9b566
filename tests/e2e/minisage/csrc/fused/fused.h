#pragma once
#include <torch/extension.h>

void scale_cuda(torch::Tensor input, torch::Tensor output, float scale);
