// What stable/torch.h declares, in terms of the C functions of torch's stable ABI.
//
// SPDX-License-Identifier: Apache-2.0

#include "torch.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

namespace torch {

std::ostream &operator<<(std::ostream &out, ScalarType type) {
  switch (type) {
    case ScalarType::Char: return out << "int8";
    case ScalarType::Half: return out << "float16";
    case ScalarType::BFloat16: return out << "bfloat16";
    case ScalarType::Float: return out << "float32";
    case ScalarType::Float8_e4m3fn: return out << "float8_e4m3fn";
    default: return out << "another type";
  }
}

Tensor::Tensor(AtenTensorOpaque *steals)
    : handle_(steals, [](AtenTensorOpaque *handle) { aoti_torch_delete_tensor_object(handle); }) {}

int64_t Tensor::dim() const {
  int64_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(get(), &value));
  return value;
}

int64_t Tensor::numel() const {
  int64_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(get(), &value));
  return value;
}

int64_t Tensor::size(int64_t dim) const {
  int64_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_size(get(), dim, &value));
  return value;
}

int64_t Tensor::stride(int64_t dim) const {
  int64_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_stride(get(), dim, &value));
  return value;
}

IntArrayRef Tensor::sizes() const {
  int64_t *values = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(get(), &values));
  return {values, dim()};
}

bool Tensor::is_cuda() const {
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(get(), &type));
  return type == aoti_torch_device_type_cuda();
}

bool Tensor::is_contiguous() const {
  bool value = false;
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(get(), &value));
  return value;
}

int32_t Tensor::device_index() const {
  int32_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(get(), &value));
  return value;
}

ScalarType Tensor::scalar_type() const {
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(get(), &type));
  if (type == aoti_torch_dtype_int8()) return ScalarType::Char;
  if (type == aoti_torch_dtype_float16()) return ScalarType::Half;
  if (type == aoti_torch_dtype_bfloat16()) return ScalarType::BFloat16;
  if (type == aoti_torch_dtype_float32()) return ScalarType::Float;
  if (type == aoti_torch_dtype_float8_e4m3fn()) return ScalarType::Float8_e4m3fn;
  return ScalarType::Other;
}

void *Tensor::data_ptr() const {
  void *value = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(get(), &value));
  return value;
}

Tensor empty(std::initializer_list<int64_t> sizes, TensorOptions options) {
  // Only what the kernels ask for: a contiguous float32 tensor of at most three dimensions.
  TORCH_CHECK(options.type == ScalarType::Float && sizes.size() <= 3, "unsupported allocation");
  int64_t strides[3] = {1, 1, 1};
  for (int64_t i = static_cast<int64_t>(sizes.size()) - 2; i >= 0; i--) {
    strides[i] = strides[i + 1] * sizes.begin()[i + 1];
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, aoti_torch_dtype_float32(),
                                                  aoti_torch_device_type_cuda(), options.device_index, &handle));
  return Tensor(handle);
}

}  // namespace torch
