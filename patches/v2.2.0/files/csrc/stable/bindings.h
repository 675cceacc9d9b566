// Registers the extensions' functions as operators, through torch's stable ABI.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "torch.h"

namespace sage {

// Hands a result over.
inline void give(StableIValue *to, const torch::Tensor &tensor) {
  AtenTensorHandle owned = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &owned));
  *to = torch::stable::detail::from(owned);
}

// How many tensors a function returns.
template <typename Result>
struct Count : std::integral_constant<size_t, 1> {};
template <>
struct Count<void> : std::integral_constant<size_t, 0> {};
template <typename... Tensors>
struct Count<std::tuple<Tensors...>> : std::integral_constant<size_t, sizeof...(Tensors)> {};

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

inline void check_device(const torch::Tensor &tensor, int32_t device) {
  TORCH_CHECK(tensor.is_cuda() && tensor.device_index() == device, "all tensors must be on the same CUDA device");
}

template <typename Other>
void check_device(const Other &, int32_t) {}

// Makes a device current, and on destruction the one that was before. Costs nothing where it is current.
class DeviceGuard {
 public:
  explicit DeviceGuard(int32_t device) {
    int current = -1;
    if (cudaGetDevice(&current) == cudaSuccess && current == device) return;
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(device, &handle_));
  }
  ~DeviceGuard() {
    if (handle_ != nullptr) aoti_torch_delete_cuda_guard(handle_);
  }
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;

 private:
  CUDAGuardHandle handle_ = nullptr;
};

template <typename Result, typename... Parameters, size_t... I>
void call(Result (*function)(Parameters...), StableIValue *stack, std::index_sequence<I...>) {
  // All arguments are taken before any is used, so that each reference is owned and given back.
  std::tuple<Parameters...> arguments{Argument<Parameters>::take(stack[I])...};
  // The first is a tensor: the kernels are launched on its device, whichever is current.
  const int32_t device = std::get<0>(arguments).device_index();
  (check_device(std::get<I>(arguments), device), ...);
  const DeviceGuard guard(device);
  if constexpr (std::is_void_v<Result>) {
    std::apply(function, std::move(arguments));
  } else {
    const Result made = std::apply(function, std::move(arguments));
    if constexpr (std::is_same_v<Result, torch::Tensor>) {
      give(stack, made);
    } else {
      std::apply([&](const auto &...tensors) { (give(stack++, tensors), ...); }, made);
    }
  }
}

template <typename Result, typename... Parameters>
void call(Result (*function)(Parameters...), StableIValue *stack, uint64_t inputs, uint64_t outputs) {
  TORCH_CHECK(inputs == sizeof...(Parameters) && outputs == Count<Result>::value,
              "the operator's schema and its function disagree");
  call(function, stack, std::index_sequence_for<Parameters...>());
}

// A function in the calling convention of torch's dispatcher.
template <auto function>
void boxed(StableIValue *stack, uint64_t inputs, uint64_t outputs) {
  call(function, stack, inputs, outputs);
}

}  // namespace sage
