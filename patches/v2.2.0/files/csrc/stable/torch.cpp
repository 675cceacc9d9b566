// What stable/torch.h declares, in terms of the C functions of torch's stable ABI.
//
// SPDX-License-Identifier: Apache-2.0

#include "torch.h"

#include <cuda_runtime.h>
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

// As torch numbers it.
static int32_t code_of(ScalarType type) {
  switch (type) {
    case ScalarType::Char: return aoti_torch_dtype_int8();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::Float8_e4m3fn: return aoti_torch_dtype_float8_e4m3fn();
    default: throw std::runtime_error("a type that the kernels do not have");
  }
}

Tensor::Tensor(AtenTensorOpaque *steals)
    : handle_(steals, [](AtenTensorOpaque *handle) { aoti_torch_delete_tensor_object(handle); }) {
  int64_t *sizes = nullptr, *strides = nullptr;
  int32_t device_type = 0, code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(steals, &dim_));
  TORCH_CHECK(dim_ <= kMostDims, "a tensor of ", dim_, " dimensions");
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(steals, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(steals, &strides));
  for (int64_t i = 0; i < dim_; i++) sizes_[i] = sizes[i], strides_[i] = strides[i];
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(steals, &device_type));
  is_cuda_ = device_type == aoti_torch_device_type_cuda();
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(steals, &device_index_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(steals, &code));
  for (const auto type : {ScalarType::Char, ScalarType::Half, ScalarType::BFloat16, ScalarType::Float,
                          ScalarType::Float8_e4m3fn}) {
    if (code == code_of(type)) type_ = type;
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(steals, &data_));
}

Tensor::Tensor(const Tensor &owner, void *data, std::initializer_list<int64_t> sizes, ScalarType type)
    : handle_(owner.handle_), data_(data), device_index_(owner.device_index_), type_(type), is_cuda_(owner.is_cuda_) {
  make_contiguous(sizes);
}

void Tensor::make_contiguous(std::initializer_list<int64_t> sizes) {
  dim_ = static_cast<int64_t>(sizes.size());
  TORCH_CHECK(dim_ <= 4, "unsupported allocation");
  int64_t stride = 1;
  for (int64_t i = dim_ - 1; i >= 0; i--) {
    sizes_[i] = sizes.begin()[i];
    strides_[i] = stride;
    stride *= sizes_[i];
  }
}

int64_t Tensor::at(int64_t dim) const {
  TORCH_CHECK(dim >= -dim_ && dim < dim_, "there is no dimension ", dim, " of ", dim_);
  return dim < 0 ? dim + dim_ : dim;
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (int64_t i = 0; i < dim_; i++) count *= sizes_[i];
  return count;
}

int64_t Tensor::last_offset() const {
  int64_t offset = 0;
  for (int64_t i = 0; i < dim_; i++) {
    if (sizes_[i] == 0) return 0;
    offset += (sizes_[i] - 1) * strides_[i];
  }
  return offset;
}

bool Tensor::is_contiguous() const {
  int64_t stride = 1;
  for (int64_t i = dim_ - 1; i >= 0; i--) {
    if (sizes_[i] != 1 && strides_[i] != stride) return numel() == 0;
    stride *= sizes_[i];
  }
  return true;
}

Tensor Tensor::transpose(int64_t one, int64_t other) const {
  Tensor view = *this;
  std::swap(view.sizes_[at(one)], view.sizes_[at(other)]);
  std::swap(view.strides_[at(one)], view.strides_[at(other)]);
  return view;
}

CUstream_st *current_stream() {
  int device = 0;
  void *stream = nullptr;
  TORCH_CHECK(cudaGetDevice(&device) == cudaSuccess, "there is no current CUDA device");
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<CUstream_st *>(stream);
}

Tensor empty(std::initializer_list<int64_t> sizes, TensorOptions options) {
  TORCH_CHECK(sizes.size() <= 4, "unsupported allocation");
  int64_t strides[4] = {1, 1, 1, 1};
  for (int64_t i = static_cast<int64_t>(sizes.size()) - 2; i >= 0; i--) {
    strides[i] = strides[i + 1] * sizes.begin()[i + 1];
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, code_of(options.type),
                                                  aoti_torch_device_type_cuda(), options.device_index, &handle));
  return Tensor(handle);
}

}  // namespace torch
