// The few names of torch's C++ API that the kernels' host code uses, over torch's stable ABI.
//
// No torch header is read here, so that none is parsed once per source and architecture: what these
// names do is in torch.cpp, which is compiled once by the host compiler.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cassert>  // for the CUDA headers and the sources, which count on it
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>

struct AtenTensorOpaque;
struct CUstream_st;

namespace torch {

enum class ScalarType { Char, Half, BFloat16, Float, Float8_e4m3fn, Other };

constexpr ScalarType kInt8 = ScalarType::Char;
constexpr ScalarType kHalf = ScalarType::Half;
constexpr ScalarType kFloat = ScalarType::Float;
constexpr ScalarType kFloat32 = ScalarType::Float;

std::ostream &operator<<(std::ostream &out, ScalarType type);

// A list of sizes that is only borrowed.
class IntArrayRef {
 public:
  IntArrayRef(const int64_t *data, int64_t count) : data_(data), count_(count) {}
  // The list must outlive this: it is meant for comparisons such as sizes() == IntArrayRef({...}).
  IntArrayRef(const std::initializer_list<int64_t> &list)
      : IntArrayRef(list.begin(), static_cast<int64_t>(list.size())) {}

  bool operator==(const IntArrayRef &other) const {
    if (count_ != other.count_) return false;
    for (int64_t i = 0; i < count_; i++) {
      if (data_[i] != other.data_[i]) return false;
    }
    return true;
  }

 private:
  const int64_t *data_;
  int64_t count_;
};

struct TensorOptions {
  int32_t device_index;
  ScalarType type;

  TensorOptions dtype(ScalarType other) const { return {device_index, other}; }
};

// Owns a reference to a tensor.
class Tensor {
 public:
  explicit Tensor(AtenTensorOpaque *steals);

  AtenTensorOpaque *get() const { return handle_.get(); }

  int64_t dim() const;
  int64_t numel() const;
  int64_t size(int64_t dim) const;
  int64_t stride(int64_t dim) const;
  IntArrayRef sizes() const;
  bool is_cuda() const;
  bool is_contiguous() const;
  int32_t device_index() const;
  ScalarType scalar_type() const;
  ScalarType dtype() const { return scalar_type(); }
  TensorOptions options() const { return {device_index(), scalar_type()}; }
  void *data_ptr() const;

  template <typename T>
  T *data_ptr() const {
    return static_cast<T *>(data_ptr());
  }

 private:
  std::shared_ptr<AtenTensorOpaque> handle_;
};

// A contiguous CUDA tensor of unwritten memory.
Tensor empty(std::initializer_list<int64_t> sizes, TensorOptions options);

namespace stable_detail {

template <typename... Parts>
[[noreturn]] void fail(const char *file, int line, const Parts &...parts) {
  std::ostringstream message;
  (message << ... << parts);
  message << " (" << file << ":" << line << ")";
  throw std::runtime_error(message.str());
}

}  // namespace stable_detail
}  // namespace torch

namespace at {
using torch::ScalarType;
}

#define TORCH_CHECK(condition, ...)                                      \
  do {                                                                   \
    if (!(condition)) {                                                  \
      torch::stable_detail::fail(__FILE__, __LINE__, __VA_ARGS__);       \
    }                                                                    \
  } while (false)
