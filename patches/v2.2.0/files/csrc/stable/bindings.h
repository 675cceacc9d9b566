// Registers the extensions' functions as operators, through torch's stable ABI.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <torch/csrc/stable/library.h>

#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "torch.h"

namespace sage {

// From an operator's argument as the schema has it (int64_t, double) to the function's (int, float).
template <typename T>
struct Argument;

template <>
struct Argument<torch::Tensor> {
  static torch::Tensor take(StableIValue value) {
    return torch::Tensor(torch::stable::detail::to<AtenTensorHandle>(value));
  }
};

template <>
struct Argument<int> {
  static int take(StableIValue value) {
    const auto wide = torch::stable::detail::to<int64_t>(value);
    TORCH_CHECK(wide >= std::numeric_limits<int>::min() && wide <= std::numeric_limits<int>::max(), "the integer ",
                wide, " is out of range");
    return static_cast<int>(wide);
  }
};

template <>
struct Argument<float> {
  static float take(StableIValue value) { return static_cast<float>(torch::stable::detail::to<double>(value)); }
};

template <typename Result, typename... Parameters, size_t... I>
void call(Result (*function)(Parameters...), StableIValue *stack, std::index_sequence<I...>) {
  // All arguments are taken before any is used, so that each reference is owned and given back.
  std::tuple<Parameters...> arguments{Argument<Parameters>::take(stack[I])...};
  if constexpr (std::is_void_v<Result>) {
    std::apply(function, std::move(arguments));
  } else {
    const torch::Tensor result = std::apply(function, std::move(arguments));
    AtenTensorHandle owned = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(result.get(), &owned));
    stack[0] = torch::stable::detail::from(owned);
  }
}

template <typename Result, typename... Parameters>
void call(Result (*function)(Parameters...), StableIValue *stack, uint64_t inputs, uint64_t outputs) {
  TORCH_CHECK(inputs == sizeof...(Parameters) && outputs == (std::is_void_v<Result> ? 0 : 1),
              "the operator's schema and its function disagree");
  call(function, stack, std::index_sequence_for<Parameters...>());
}

// A function in the calling convention of torch's dispatcher.
template <auto function>
void boxed(StableIValue *stack, uint64_t inputs, uint64_t outputs) {
  call(function, stack, inputs, outputs);
}

}  // namespace sage
