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
#include <utility>

struct AtenTensorOpaque;
struct CUstream_st;

namespace torch {

enum class ScalarType { Char, Half, BFloat16, Float, Float8_e4m3fn, Other };

constexpr ScalarType kInt8 = ScalarType::Char;
constexpr ScalarType kHalf = ScalarType::Half;
constexpr ScalarType kFloat = ScalarType::Float;
constexpr ScalarType kFloat32 = ScalarType::Float;

std::ostream &operator<<(std::ostream &out, ScalarType type);

constexpr int64_t bytes_of(ScalarType type) {
  return type == ScalarType::Float ? 4 : type == ScalarType::Half || type == ScalarType::BFloat16 ? 2 : 1;
}

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

// What the host code asks of a tensor, read once. Owns a reference to torch's tensor, or to that whose memory it is a
// part of.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorOpaque *steals);

  // Contiguous, at `data`, in the memory of `owner`; of at most 4 dimensions.
  Tensor(const Tensor &owner, void *data, std::initializer_list<int64_t> sizes, ScalarType type);

  AtenTensorOpaque *get() const { return handle_.get(); }

  int64_t dim() const { return dim_; }
  int64_t numel() const;
  int64_t size(int64_t dim) const { return sizes_[at(dim)]; }
  int64_t stride(int64_t dim) const { return strides_[at(dim)]; }
  IntArrayRef sizes() const { return {sizes_, dim_}; }
  // How many elements the last one lies after the first.
  int64_t last_offset() const;
  bool is_cuda() const { return is_cuda_; }
  bool is_contiguous() const;
  int32_t device_index() const { return device_index_; }
  ScalarType scalar_type() const { return type_; }
  ScalarType dtype() const { return type_; }
  TensorOptions options() const { return {device_index_, type_}; }
  void *data_ptr() const { return data_; }

  template <typename T>
  T *data_ptr() const {
    return static_cast<T *>(data_);
  }

  // A view with two dimensions exchanged.
  Tensor transpose(int64_t one, int64_t other) const;

 private:
  static constexpr int64_t kMostDims = 8;

  int64_t at(int64_t dim) const;
  void make_contiguous(std::initializer_list<int64_t> sizes);

  std::shared_ptr<AtenTensorOpaque> handle_;
  void *data_ = nullptr;
  int64_t dim_ = 0;
  int64_t sizes_[kMostDims], strides_[kMostDims];
  int32_t device_index_ = 0;
  ScalarType type_ = ScalarType::Other;
  bool is_cuda_ = false;
};

// torch's current stream on the current device.
CUstream_st *current_stream();

// A contiguous CUDA tensor of unwritten memory, of at most 4 dimensions.
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
