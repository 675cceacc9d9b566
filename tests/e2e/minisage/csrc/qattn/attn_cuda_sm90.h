#pragma once
#include <torch/extension.h>

void mini_barrier(torch::Tensor output);
