// Prepares Q, K and V for attention in one launch: int8 of Q and of K less its mean, and V as a kernel wants it.
//
// The mean of K and the range of V have to be known before the first of their elements is quantised. To read
// memory once instead of twice, the blocks of the one launch go through the heads in order: those that gather
// a head's statistics come `lag` heads before those that quantise it, which find it in the L2 cache. A block
// that quantises waits for its head's statistics. It can't wait forever: blocks start in the order of their
// index, which CUB's scan counts on too, and those that it waits for come before it.
//
// Sums are taken in one order, so that the same input gives the same bits.
//
// SPDX-License-Identifier: Apache-2.0

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <utility>

#include "../numeric_conversion.cuh"
#include "../stable/launch.h"
#include "prepare.h"

// Named: a kernel of an unnamed namespace has a name that depends on the folder of the build.
namespace preparation {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kTile = 128;            // tokens that a block quantises
constexpr int kPack = 8;              // elements that a thread reads at a time, 16 bytes
constexpr int kPasses = 4;            // packs that a thread reads: the 4 tokens of a word of fp8
constexpr int kTransposedPitch = 33;  // words: 128 tokens of fp8, and one against bank conflicts
constexpr int kLine = 32;             // words of a cache line: what blocks wait for has one of its own
// The largest QK^T, in units of log 2: with less than half of what the kernels put in place of a masked product (-1e6
// in Triton), no key is taken for one. Weights are 0 or 1 long before that.
constexpr float kLargestLogit = 262144.0f;

// Signs of the channels, before the matrix: a bit each. Without them a row that is constant over its channels, or
// changes sign as a column of the matrix does, would become one outlier. These are a quadratic form of the channel's
// number, for which what becomes of such a row is flat: no value of it is larger than its root mean square by more
// than 1.42. Not `const`: its name would then hold a digest of this file's path, and no two folders make equal bytes.
__constant__ uint32_t kSigns[4] = {0x90ca3a60, 0x5cf909ac, 0xf6ac5c06, 0xc5609035};

constexpr float kSmallest16 = 0.00390625f;  // less than this loses digits in float16, which is exact down to 6e-5

enum Statistic { kMean, kLargest, kSmallest, kStatistics };

// Q, K or V as it was given. Strides are in elements.
struct Input {
  const void *data;
  int64_t stride_batch, stride_head, stride_token, stride_dim;
  int heads;  // in one batch entry
  int tokens;
  bool vectors;  // rows can be read in packs
};

// Which rows of a tile share a scale: `rows` of them, or, of these, every 8th row of Q (per_set 8) or every 4th pair of
// rows of K (4).
struct Groups {
  int rows, per_set;
  int64_t total;  // scales of one head
};

// What is known of a head's channels: of K the mean; of V what to add after multiplying with what.
struct Statistics {
  float *partial;      // [heads][chunks][kStatistics][dim]
  float *of_head;      // [heads][2][dim]
  unsigned *progress;  // [heads][kLine]: chunks that are done, and 1 more when of_head is written
  int chunks;          // 0: not asked for
};

struct Work {
  Input q, k, v;
  int head_dim;  // as given; rows are padded with zeros to the kernels'
  int q_per_kv;  // heads of Q that share one of K and V
  int chunk_tokens;
  Statistics k_statistics, v_statistics;
  Groups q_groups, k_groups;
  int8_t *q_int8, *k_int8;
  float *q_scale, *k_scale;
  unsigned *q_progress;  // [heads of K][kLine]: tiles of Q that are done, and the largest of their scales, as bits
  bool smooth_k;
  float q_factor;      // Q is multiplied by it first
  float logit_factor;  // and QK^T in the kernel
  float *correction;   // [heads of Q][tokens]: what the mean of K adds to the logsumexp; may be null
  float correction_factor;
  VMode v_mode;
  void *v_made;  // float16: [heads][tokens][dim]; float8: [heads][dim][v_pitch]
  int64_t v_pitch;
  float v_limit;   // the largest value that V may have in its new type
  float *v_scale;  // [heads][dim]
  void *v_mean;    // [heads][dim]: float for float8, the input's type for float16; null if V keeps its mean
  // Blocks of each kind for each head of K and V.
  int heads, lag, q_tiles, k_tiles, v_tiles;
};

template <typename T>
struct Type;
template <>
struct Type<half> {
  using Pair = half2;
  static constexpr float kMost = 65504.0f;
  static __device__ __forceinline__ half2 pair(float value) { return __float2half2_rn(value); }
  static __device__ __forceinline__ float2 floats(half2 pair) { return __half22float2(pair); }
  static __device__ __forceinline__ half from(float value) { return __float2half_rn(value); }
};
template <>
struct Type<nv_bfloat16> {
  using Pair = nv_bfloat162;
  static constexpr float kMost = 3.3895314e38f;
  static __device__ __forceinline__ nv_bfloat162 pair(float value) { return __float2bfloat162_rn(value); }
  static __device__ __forceinline__ float2 floats(nv_bfloat162 pair) {
    const uint32_t raw = *reinterpret_cast<const uint32_t *>(&pair);
    return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000));
  }
  static __device__ __forceinline__ nv_bfloat16 from(float value) { return __float2bfloat16_rn(value); }
};

template <typename T>
struct alignas(16) Pack {
  typename Type<T>::Pair pairs[kPack / 2];

  __device__ __forceinline__ void floats(float (&values)[kPack]) const {
#pragma unroll
    for (int j = 0; j < kPack / 2; j++) {
      const float2 two = Type<T>::floats(pairs[j]);
      values[2 * j] = two.x, values[2 * j + 1] = two.y;
    }
  }
};

// For rows that can't be read in packs. Apart, so that it takes no registers from the common case.
template <typename T>
__device__ __noinline__ uint4 read_singly(const T *row, int64_t stride, int count) {
  alignas(16) T values[kPack];
#pragma unroll
  for (int j = 0; j < kPack; j++) values[j] = j < count ? row[j * stride] : Type<T>::from(0.0f);
  return *reinterpret_cast<uint4 *>(values);
}

template <int kDim>
struct Threads {
  static constexpr int kCount = kDim * kPasses;
  static constexpr int kAcross = kDim / kPack;    // threads that read one row
  static constexpr int kRows = kCount / kAcross;  // rows that the block reads at a time
  static_assert(kRows * kPasses == kTile);
  int channel = threadIdx.x % kAcross * kPack;
  int row = threadIdx.x / kAcross;
};

// Reads a thread's packs, those of the rows offset(0) and on after `first`; zeros past the last token and channel.
template <typename T, typename Offset>
__device__ __forceinline__ void read(Pack<T> (&packs)[kPasses], const Input &input, int head, int first, int channel,
                                     int head_dim, Offset offset) {
  const T *row = static_cast<const T *>(input.data) + head / input.heads * input.stride_batch +
                 head % input.heads * input.stride_head + first * input.stride_token + channel * input.stride_dim;
  const int left = channel < head_dim ? input.tokens - first : 0;
  if (input.vectors) {
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      uint4 raw = make_uint4(0, 0, 0, 0);
      if (offset(pass) < left) raw = *reinterpret_cast<const uint4 *>(row + offset(pass) * input.stride_token);
      *reinterpret_cast<uint4 *>(&packs[pass]) = raw;
    }
  } else {
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      uint4 raw = make_uint4(0, 0, 0, 0);
      if (offset(pass) < left) {
        raw = read_singly(row + offset(pass) * input.stride_token, input.stride_dim, head_dim - channel);
      }
      *reinterpret_cast<uint4 *>(&packs[pass]) = raw;
    }
  }
}

// Called by one thread: many that ask would keep those from their place that answer.
__device__ __forceinline__ void wait_for(const unsigned *progress, unsigned done) {
  unsigned seen;
  while (true) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(progress) : "memory");
    if (seen == done) break;
    __nanosleep(64);
  }
}

__device__ __forceinline__ void load(float (&values)[kPack], const float *from) {
  const float4 low = __ldcg(reinterpret_cast<const float4 *>(from));
  const float4 high = __ldcg(reinterpret_cast<const float4 *>(from + 4));
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

__device__ __forceinline__ float finite(float value) { return fminf(fmaxf(value, -FLT_MAX), FLT_MAX); }

// What to do with one channel of V: (v - mean) * inverse is stored, and scale gives it back.
template <typename T>
__device__ void finish_v(const Work &work, int head, int dim, int channel, float mean, float largest, float smallest) {
  const int64_t index = int64_t(head) * dim + channel;
  if (work.v_mean == nullptr) mean = 0.0f;
  // What the kernel of float16 will add has V's own type.
  if (work.v_mode == VMode::kFloat16) mean = static_cast<float>(Type<T>::from(mean));
  const float range = fmaxf(finite(largest - mean), finite(mean - smallest));
  float inverse = 1.0f, scale = 1.0f;
  if (work.v_mode == VMode::kFloat8) {
    // The largest value becomes v_limit. The kernels round weights to float8, up by less than 7 %, and not their sum:
    // less of V is given back where the output might not fit its type.
    inverse = range > 1e-30f ? fmaxf(__fdiv_rn(work.v_limit, range), FLT_MIN) : 0.0f;
    const float fits = __fdiv_rn((Type<T>::kMost - fabsf(mean)) / 1.07f, range);
    scale = range > 1e-30f ? __fdiv_rn(1.0f, inverse) * fminf(1.0f, fits) : 0.0f;
  } else if (range > work.v_limit || (range < kSmallest16 && range > 0)) {
    // A power of two, and 1 wherever the values fit.
    int exponent;
    frexpf(range > work.v_limit ? __fdiv_rn(range, work.v_limit) : range, &exponent);
    inverse = ldexpf(1.0f, -exponent), scale = ldexpf(1.0f, exponent);
  }
  work.v_scale[index] = scale;
  if (work.v_mean != nullptr) {
    if (work.v_mode == VMode::kFloat8) {
      static_cast<float *>(work.v_mean)[index] = mean;
    } else {
      static_cast<T *>(work.v_mean)[index] = Type<T>::from(mean * inverse);
    }
  }
  float *of_head = work.v_statistics.of_head + int64_t(head) * 2 * dim + channel;
  of_head[0] = inverse, of_head[dim] = -mean * inverse;
}

// Gathers one chunk of one head of K or V; the block that finishes a head's last chunk puts the chunks together.
template <typename T, int kDim>
__device__ void gather(const Work &work, bool is_v, int head, int chunk, float *shared) {
  using Shape = Threads<kDim>;
  using Pair = typename Type<T>::Pair;
  const Input &input = is_v ? work.v : work.k;
  const Statistics &statistics = is_v ? work.v_statistics : work.k_statistics;
  const Shape thread;
  const int end = min((chunk + 1) * work.chunk_tokens, input.tokens);
  const bool needs_mean = !is_v || work.v_mean != nullptr;
  const float share = 1.0f / input.tokens;
  float sums[kPack] = {};
  // Of a thread's first row, if there is one; otherwise what the others can't be past.
  Pair largest[kPack / 2], smallest[kPack / 2];
#pragma unroll
  for (int j = 0; j < kPack / 2; j++)
    largest[j] = Type<T>::pair(-Type<T>::kMost), smallest[j] = Type<T>::pair(Type<T>::kMost);
  for (int first = chunk * work.chunk_tokens; first < end; first += kTile) {
    Pack<T> packs[kPasses];
    read(packs, input, head, first + thread.row, thread.channel, work.head_dim,
         [](int pass) { return pass * Shape::kRows; });
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      if (first + thread.row + pass * Shape::kRows >= end) continue;
#pragma unroll
      for (int j = 0; is_v && j < kPack / 2; j++) {
        largest[j] = __hmax2(largest[j], packs[pass].pairs[j]);
        smallest[j] = __hmin2(smallest[j], packs[pass].pairs[j]);
      }
      if (!needs_mean) continue;
      float values[kPack];
      packs[pass].floats(values);
#pragma unroll
      for (int j = 0; j < kPack; j++) sums[j] = fmaf(values[j], share, sums[j]);
    }
  }
  // The rows of a warp, then the warps.
#pragma unroll
  for (int lane = Shape::kAcross; lane < 32; lane *= 2) {
#pragma unroll
    for (int j = 0; is_v && j < kPack / 2; j++) {
      largest[j] = __hmax2(largest[j], __shfl_xor_sync(0xffffffff, largest[j], lane));
      smallest[j] = __hmin2(smallest[j], __shfl_xor_sync(0xffffffff, smallest[j], lane));
    }
#pragma unroll
    for (int j = 0; j < kPack; j++) sums[j] += __shfl_xor_sync(0xffffffff, sums[j], lane);
  }
  constexpr int kWarps = Shape::kCount / 32;
  float *all_sums = shared;
  T *all_largest = reinterpret_cast<T *>(shared + kWarps * kDim), *all_smallest = all_largest + kWarps * kDim;
  if (threadIdx.x % 32 < Shape::kAcross) {
    const int place = threadIdx.x / 32 * kDim + thread.channel;
#pragma unroll
    for (int j = 0; j < kPack; j += 4) {
      *reinterpret_cast<float4 *>(all_sums + place + j) = make_float4(sums[j], sums[j + 1], sums[j + 2], sums[j + 3]);
    }
    *reinterpret_cast<uint4 *>(all_largest + place) = *reinterpret_cast<const uint4 *>(largest);
    *reinterpret_cast<uint4 *>(all_smallest + place) = *reinterpret_cast<const uint4 *>(smallest);
  }
  __syncthreads();
  const int channel = threadIdx.x % kDim, part = threadIdx.x / kDim;
  float mean = 0, most = -FLT_MAX, least = FLT_MAX;
  float *of_chunks = statistics.partial + int64_t(head) * statistics.chunks * kStatistics * kDim + channel;
  if (part == 0) {
#pragma unroll
    for (int warp = 0; warp < kWarps; warp++) {
      mean += all_sums[warp * kDim + channel];
      most = fmaxf(most, static_cast<float>(all_largest[warp * kDim + channel]));
      least = fminf(least, static_cast<float>(all_smallest[warp * kDim + channel]));
    }
    float *partial = of_chunks + int64_t(chunk) * kStatistics * kDim;
    partial[kMean * kDim] = mean, partial[kLargest * kDim] = most, partial[kSmallest * kDim] = least;
    __threadfence();
  }
  __shared__ bool is_last;
  __syncthreads();
  unsigned *progress = statistics.progress + head * kLine;
  if (threadIdx.x == 0) is_last = atomicAdd(progress, 1) == statistics.chunks - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  // A channel's chunks are put together by several threads, and their results by the first.
  constexpr int kParts = Shape::kCount / kDim;
  mean = 0, most = -FLT_MAX, least = FLT_MAX;
#pragma unroll 8
  for (int other = part; other < statistics.chunks; other += kParts) {
    const float *of_chunk = of_chunks + int64_t(other) * kStatistics * kDim;
    mean += __ldcg(of_chunk + kMean * kDim);
    most = fmaxf(most, __ldcg(of_chunk + kLargest * kDim));
    least = fminf(least, __ldcg(of_chunk + kSmallest * kDim));
  }
  float *results = shared + threadIdx.x;
  results[kMean * Shape::kCount] = mean;
  results[kLargest * Shape::kCount] = most;
  results[kSmallest * Shape::kCount] = least;
  __syncthreads();
  if (part == 0) {
#pragma unroll
    for (int other = 1; other < kParts; other++) {
      mean += results[kMean * Shape::kCount + other * kDim];
      most = fmaxf(most, results[kLargest * Shape::kCount + other * kDim]);
      least = fminf(least, results[kSmallest * Shape::kCount + other * kDim]);
    }
    if (is_v) {
      finish_v<T>(work, head, kDim, channel, mean, most, least);
    } else {
      statistics.of_head[int64_t(head) * 2 * kDim + channel] = work.smooth_k ? mean : 0.0f;
    }
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(progress, 1);
}

// Multiplies a row by a Hadamard matrix, up to the order and the signs of its columns, which are the same for Q and
// K: outliers of a few channels are spread over all, and QK^T changes by the factor kDim alone. Each of the threads
// that share the row has 8 values of it.
//
// A butterfly makes a sum and a difference of two values. Over the index within a thread they are at hand. For the
// index of the thread, two threads exchange halves: each keeps 4 of its values and gets 4 of the other's, after which
// the pairs lie in one thread. Which half is kept depends on the thread, so the butterfly before has put it first:
// `sign` exchanges sum and difference.
template <int kDim>
__device__ __forceinline__ void rotate(float (&values)[kPack]) {
  constexpr int kThreads = kDim / kPack;  // 8 or 16
  const auto sign = [](int bit) { return threadIdx.x & bit ? -1.0f : 1.0f; };
  const auto butterflies = [&](int step, float sign) {
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      if (j & step) continue;
      const float one = values[j], other = values[j + step];
      values[j] = fmaf(sign, other, one), values[j + step] = fmaf(-sign, other, one);
    }
  };
  const auto exchange = [&](int step, int bit) {
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      if (j & step) values[j] = __shfl_xor_sync(0xffffffff, values[j], bit);
    }
  };
  butterflies(4, sign(1)), butterflies(2, sign(2)), butterflies(1, sign(4));
  exchange(4, 1), butterflies(4, kThreads == 16 ? sign(8) : 1.0f);
  exchange(2, 2), butterflies(2, 1.0f);
  exchange(1, 4), butterflies(1, 1.0f);
  if (kThreads == 16) exchange(4, 8), butterflies(4, 1.0f);
}

// Quantises one tile of Q or K, rotated, to int8. All values are divided by 2 * kDim first, so that no sum overflows,
// which K's scales make up for.
//
// A thread has 4 rows: of Q every 8th of 32, which share their scales if each thread of an attention kernel has its
// own; of K every 32nd. Its first two and its last two are together, since they may be in different sets of rows.
template <typename T, int kDim, bool kIsK>
__device__ void quantise(const Work &work, int head, int kv_head, int tile, float *shared) {
  using Shape = Threads<kDim>;
  const Shape thread;
  const Input &input = kIsK ? work.k : work.q;
  const Groups &groups = kIsK ? work.k_groups : work.q_groups;
  const auto offset = [](int pass) { return pass * (kIsK ? Shape::kRows : 8); };
  const int slot = thread.row, row = kIsK ? slot : slot / 8 * 32 + slot % 8;
  const int first = tile * kTile + row, left = input.tokens - first;
  Pack<T> packs[kPasses];
  read(packs, input, head, first, thread.channel, work.head_dim, offset);
  float mean[kPack] = {};
  __shared__ float q_largest;
  unsigned *q_progress = work.q_progress + kv_head * kLine;
  if (kIsK || work.correction != nullptr) {
    if (threadIdx.x == 0) wait_for(work.k_statistics.progress + kv_head * kLine, work.k_statistics.chunks + 1);
    __syncthreads();
    load(mean, work.k_statistics.of_head + int64_t(kv_head) * 2 * kDim + thread.channel);
  }
  if (!kIsK && work.correction != nullptr) {
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      float values[kPack], product = 0;
      packs[pass].floats(values);
#pragma unroll
      for (int j = 0; j < kPack; j++) product = fmaf(values[j], mean[j], product);
#pragma unroll
      for (int lane = Shape::kAcross / 2; lane > 0; lane /= 2) product += __shfl_xor_sync(0xffffffff, product, lane);
      if (thread.channel == 0 && offset(pass) < left) {
        work.correction[int64_t(head) * input.tokens + first + offset(pass)] = finite(product * work.correction_factor);
      }
    }
  }
  const uint32_t signs = kSigns[thread.channel / 32] >> (thread.channel % 32);
  float factors[kPack], rows[kPasses][kPack];
#pragma unroll
  for (int j = 0; j < kPack; j++) factors[j] = __uint_as_float(__float_as_uint(0.5f / kDim) ^ (signs >> j) << 31);
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    float values[kPack];
    packs[pass].floats(values);
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      rows[pass][j] = kIsK ? fmaf(values[j], factors[j], -mean[j] * factors[j]) : values[j] * factors[j];
    }
    rotate<kDim>(rows[pass]);
  }
  float largest[2] = {};
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    if (kIsK && offset(pass) >= left) continue;  // zeros, which are not zero less the mean
#pragma unroll
    for (int j = 0; j < kPack; j++) largest[pass / 2] = fmaxf(largest[pass / 2], fabsf(rows[pass][j]));
  }
  const bool both = groups.rows > (kIsK ? kTile / 2 : 16);  // the two share a scale
  if (both) largest[0] = largest[1] = fmaxf(largest[0], largest[1]);
  // Over the threads that share a row, and for K over two rows, which are always in one group.
  constexpr int kSharing = Shape::kAcross * (kIsK ? 2 : 1);
#pragma unroll
  for (int lane = kSharing / 2; lane > 0; lane /= 2) {
    largest[0] = fmaxf(largest[0], __shfl_xor_sync(0xffffffff, largest[0], lane));
    if (!both) largest[1] = fmaxf(largest[1], __shfl_xor_sync(0xffffffff, largest[1], lane));
  }
  if (both) largest[1] = largest[0];
  // Over the slots of the group.
  if (thread.channel == 0) shared[slot] = largest[0], shared[Shape::kRows + slot] = largest[1];
  if (kIsK && threadIdx.x == 0) {
    wait_for(q_progress, work.q_tiles);
    q_largest = __uint_as_float(__ldcg(q_progress + 1));
  }
  __syncthreads();
  bool writes = thread.channel == 0;
  if (!kIsK && threadIdx.x < 32) {
    float of_tile = fmaxf(shared[threadIdx.x], shared[Shape::kRows + threadIdx.x]);
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) of_tile = fmaxf(of_tile, __shfl_xor_sync(0xffffffff, of_tile, lane));
    if (threadIdx.x == 0) {
      const float scale = fminf(of_tile, FLT_MAX) * (1.0f / 127.0f) * fabsf(work.q_factor);
      atomicMax(q_progress + 1, __float_as_uint(scale));
      __threadfence();
      atomicAdd(q_progress, 1);
    }
  }
  if (kIsK || groups.per_set == 1) {
    const int start = groups.per_set != 1 ? slot % 8 / 2 * 2 : kIsK || groups.rows == kTile ? 0 : slot / 8 * 8;
    const int step = groups.per_set != 1 ? 8 : 1;
    const int end = kIsK || groups.rows == kTile ? Shape::kRows : start + 8;
    for (int other = start; other < end; other += step) {
      largest[0] = fmaxf(largest[0], shared[other]), largest[1] = fmaxf(largest[1], shared[Shape::kRows + other]);
    }
    writes = writes && slot == start;
  }
  float inverses[2];
#pragma unroll
  for (int part = 0; part < 2; part++) {
    const float most = fminf(largest[part], FLT_MAX);
    inverses[part] = most > 1e37f ? __fdiv_rn(127.0f, most) : most > 1e-33f ? __fdividef(127.0f, most) : 0.0f;
    if (!writes || (both && part == 1)) continue;
    // Keys whose products with Q may be too large for the kernels count as less. Products in steps: all may be large.
    constexpr float kRoom = kLargestLogit / (127.0f * 127.0f * kDim);
    const float scale = kIsK ? fminf(most * (4.0f * kDim / 127.0f), __fdiv_rn(kRoom / work.logit_factor, q_largest))
                             : most * (1.0f / 127.0f) * fabsf(work.q_factor);
    const int sets = groups.rows == kTile ? 1 : kTile / groups.rows;
    const int set = kIsK ? (both ? 0 : part) : sets == 1 ? 0 : both ? slot / 8 : slot / 8 * 2 + part;
    const int within = groups.per_set == 1 ? 0 : kIsK ? slot % 8 / 2 : slot % 8;
    const int64_t index = (int64_t(tile) * sets + set) * groups.per_set + within;
    if (index < groups.total) (kIsK ? work.k_scale : work.q_scale)[head * groups.total + index] = scale;
  }
  int8_t *to = (kIsK ? work.k_int8 : work.q_int8) + (int64_t(head) * input.tokens + first) * kDim + thread.channel;
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    if (offset(pass) >= left) continue;
    const float inverse =
        kIsK ? inverses[pass / 2] : copysignf(inverses[pass / 2], work.q_factor) * (work.q_factor != 0);
    uint32_t words[2];
#pragma unroll
    for (int word = 0; word < 2; word++) {
      uint32_t bytes[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // Added to 1.5 * 2^23, a number of up to 22 bits is rounded to an integer, which are the sum's lowest bits.
        bytes[j] = __float_as_uint(fmaf(rows[pass][word * 4 + j], inverse, 12582912.0f));
      }
      words[word] =
          __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0040), __byte_perm(bytes[2], bytes[3], 0x0040), 0x5410);
    }
    *reinterpret_cast<uint2 *>(to + offset(pass) * kDim) = make_uint2(words[0], words[1]);
  }
}

// Brings one tile of V into the type and the order that a kernel wants.
template <typename T, int kDim>
__device__ void convert(const Work &work, int head, int tile, uint32_t *shared) {
  using Shape = Threads<kDim>;
  const Shape thread;
  const Input &input = work.v;
  const Statistics &statistics = work.v_statistics;
  const int first = tile * kTile;
  // A word of fp8 is 4 tokens, and the kernels want tokens 0 1 8 9, 2 3 10 11, 4 5 12 13 and 6 7 14 15 of each 16
  // together: a thread reads those of one word.
  const auto offset = [](int pass) { return pass / 2 * 8 + pass % 2; };
  const int row = thread.row / 4 * 16 + thread.row % 4 * 2;
  const int left = input.tokens - first - row;
  Pack<T> packs[kPasses];
  read(packs, input, head, first + row, thread.channel, work.head_dim, offset);
  float inverses[kPack] = {1, 1, 1, 1, 1, 1, 1, 1}, added[kPack] = {};
  if (statistics.chunks > 0) {
    if (threadIdx.x == 0) wait_for(statistics.progress + head * kLine, statistics.chunks + 1);
    __syncthreads();
    const float *of_head = statistics.of_head + int64_t(head) * 2 * kDim + thread.channel;
    load(inverses, of_head);
    load(added, of_head + kDim);
  } else if (tile == 0 && threadIdx.x < kDim) {
    work.v_scale[int64_t(head) * kDim + threadIdx.x] = 1.0f;
  }
  if (work.v_mode == VMode::kFloat16) {
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      if (offset(pass) >= left) continue;
      float values[kPack];
      packs[pass].floats(values);
      alignas(16) half2 converted[kPack / 2];
#pragma unroll
      for (int j = 0; j < kPack; j += 2) {
        converted[j / 2] = __floats2half2_rn(fmaf(values[j], inverses[j], added[j]),
                                             fmaf(values[j + 1], inverses[j + 1], added[j + 1]));
      }
      half *to = static_cast<half *>(work.v_made) + (int64_t(head) * input.tokens + first + row + offset(pass)) * kDim;
      *reinterpret_cast<uint4 *>(to + thread.channel) = *reinterpret_cast<const uint4 *>(converted);
    }
    return;
  }
#pragma unroll
  for (int pair = 0; pair < kPack / 2; pair++) {
    float values[2][kPasses];
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) {
      const float2 two = Type<T>::floats(packs[pass].pairs[pair]);
      const bool counts = offset(pass) < left;
      values[0][pass] = counts ? fmaf(two.x, inverses[2 * pair], added[2 * pair]) : 0.0f;
      values[1][pass] = counts ? fmaf(two.y, inverses[2 * pair + 1], added[2 * pair + 1]) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
      floatx4_to_e4m3x4(shared + (thread.channel + 2 * pair + j) * kTransposedPitch + thread.row, values[j],
                        values[j] + 2);
    }
  }
  __syncthreads();
  int8_t *to = static_cast<int8_t *>(work.v_made) + int64_t(head) * kDim * work.v_pitch + first;
#pragma unroll
  for (int i = threadIdx.x; i < kDim * kTile / 16; i += Shape::kCount) {
    const int channel = i / (kTile / 16), tokens = i % (kTile / 16) * 16;
    if (first + tokens >= work.v_pitch) continue;
    const uint32_t *words = shared + channel * kTransposedPitch + tokens / 4;
    *reinterpret_cast<uint4 *>(to + channel * work.v_pitch + tokens) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

template <typename T, int kDim>
__global__ void __launch_bounds__(Threads<kDim>::kCount, 1024 / Threads<kDim>::kCount)
    PrepareKernel(const __grid_constant__ Work work) {
  __shared__ __align__(16) uint32_t shared[kDim * kTransposedPitch];
  const int chunks = work.k_statistics.chunks, v_chunks = work.v_statistics.chunks;
  const unsigned blocks = chunks + v_chunks + work.q_tiles + work.k_tiles + work.v_tiles;
  const int step = blockIdx.x / blocks, late = step - work.lag;
  int i = blockIdx.x % blocks;
  if (i < chunks + v_chunks) {
    const bool is_v = i >= chunks;
    if (step < work.heads) gather<T, kDim>(work, is_v, step, is_v ? i - chunks : i, reinterpret_cast<float *>(shared));
    return;
  }
  i -= chunks + v_chunks;
  if (i < work.q_tiles) {
    const int head = work.correction != nullptr ? late : step, tiles = work.q_tiles / work.q_per_kv;
    if (head < 0 || head >= work.heads) return;
    quantise<T, kDim, false>(work, head * work.q_per_kv + i / tiles, head, i % tiles,
                             reinterpret_cast<float *>(shared));
    return;
  }
  i -= work.q_tiles;
  if (late < 0) return;
  if (i < work.k_tiles) {
    quantise<T, kDim, true>(work, late, late, i, reinterpret_cast<float *>(shared));
  } else {
    convert<T, kDim>(work, late, i - work.k_tiles, shared);
  }
}

int64_t parts(int64_t whole, int64_t size) { return (whole + size - 1) / size; }

Input input_of(const torch::Tensor &tensor) {
  return {tensor.data_ptr(),
          tensor.stride(0),
          tensor.stride(1),
          tensor.stride(2),
          tensor.stride(3),
          static_cast<int>(tensor.size(1)),
          static_cast<int>(tensor.size(2)),
          in_packs(tensor)};
}

struct Device {
  int multiprocessors, capability;
};

// Asked once: the answers of 64 devices are kept.
Device current_device() {
  static Device known[64];
  int index = 0;
  sage::check(cudaGetDevice(&index));
  Device device = known[index % 64];
  if (device.capability != 0 && index < 64) return device;
  int major = 0, minor = 0;
  sage::check(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index));
  sage::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  sage::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  device.capability = 10 * major + minor;
  if (index < 64) known[index] = device;
  return device;
}

}  // namespace preparation

using namespace preparation;

bool in_packs(const torch::Tensor &tensor) {
  bool multiples = reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0 && tensor.size(3) % kPack == 0;
  for (int dim = 0; dim < 3; dim++) multiples = multiples && (tensor.stride(dim) % kPack == 0 || tensor.size(dim) == 1);
  return multiples && tensor.stride(3) == 1;
}

Prepared prepare(const torch::Tensor &q, const torch::Tensor &k, const torch::Tensor &v, const Wanted &wanted,
                 bool apart) {
  const auto type = q.scalar_type();
  TORCH_CHECK(type == torch::ScalarType::Half || type == torch::ScalarType::BFloat16, "q is ", type,
              ", not float16 or bfloat16");
  TORCH_CHECK(k.scalar_type() == type && v.scalar_type() == type, "q, k and v are of different types");
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, "q, k and v must have 4 dimensions");
  const int64_t batch = q.size(0), q_heads = q.size(1), kv_heads = k.size(1), head_dim = q.size(3);
  const int64_t q_tokens = q.size(2), kv_tokens = k.size(2);
  TORCH_CHECK(k.sizes() == torch::IntArrayRef({batch, kv_heads, kv_tokens, head_dim}) && v.sizes() == k.sizes() &&
                  batch > 0 && kv_heads > 0 && q_heads > 0 && q_heads % kv_heads == 0,
              "the shapes of q, k and v do not fit");
  TORCH_CHECK(head_dim >= 1 && head_dim <= 128, "the head dimension is ", head_dim, ", not 1 to 128");
  TORCH_CHECK(q_tokens > 0 && kv_tokens > 0 && q_tokens <= INT_MAX - kTile && kv_tokens <= INT_MAX - kTile,
              "there are no tokens, or too many");
  const int q_rows = wanted.q_rows, k_rows = wanted.k_rows;
  TORCH_CHECK((q_rows == 16 || q_rows == 32 || (q_rows == 128 && wanted.granularity != Granularity::kPerThread)) &&
                  (wanted.q_block == 64 || wanted.q_block == 128) && q_rows <= wanted.q_block &&
                  (k_rows == 64 || k_rows == 128),
              "unknown sizes of blocks");
  const bool float8 = wanted.v_mode == VMode::kFloat8, touched = wanted.v_mode != VMode::kUntouched;
  const Device device = current_device();
  TORCH_CHECK(!float8 || device.capability >= 89, "float8 needs compute capability 8.9, and this GPU's is ",
              device.capability / 10, ".", device.capability % 10);

  const int dim = head_dim <= 64 ? 64 : 128;
  const int64_t heads = batch * kv_heads;
  Work work{};
  work.q = input_of(q), work.k = input_of(k), work.v = input_of(v);
  work.head_dim = static_cast<int>(head_dim);
  work.q_per_kv = static_cast<int>(q_heads / kv_heads);
  const bool per_thread = wanted.granularity == Granularity::kPerThread;
  const int q_scales = per_thread ? 8 : 1, k_scales = per_thread ? 4 : 1;
  work.q_groups = {wanted.q_rows, q_scales,
                   parts(q_tokens, wanted.q_block) * (wanted.q_block / wanted.q_rows) * q_scales};
  work.k_groups = {wanted.k_rows, k_scales, parts(kv_tokens, wanted.k_rows) * k_scales};
  work.smooth_k = wanted.smooth_k;
  const float sm_scale = wanted.sm_scale, in_kernel = scale_in_kernel(sm_scale);
  work.q_factor = wanted.fold_scale ? sm_scale * kLog2E : sm_scale / in_kernel;
  work.logit_factor = wanted.fold_scale ? 1.0f : in_kernel * kLog2E;
  work.correction_factor = sm_scale;
  work.v_mode = wanted.v_mode;
  work.v_limit = wanted.v_limit;
  work.v_pitch = parts(kv_tokens, wanted.k_rows) * wanted.k_rows;
  const bool correct = wanted.correct && wanted.smooth_k, smooth_v = wanted.smooth_v && touched;
  const bool v_statistics =
      float8 || smooth_v || (touched && (type == torch::ScalarType::BFloat16 || wanted.v_limit < 65504.0f));

  // Statistics in short chunks where there is little to do, so that all multiprocessors have some of it.
  const int64_t at_a_time = int64_t(device.multiprocessors) * (1024 / (dim * kPasses));
  work.chunk_tokens = kTile;
  while (work.chunk_tokens < 4 * kTile && heads * parts(kv_tokens, 2 * work.chunk_tokens) >= at_a_time / 2) {
    work.chunk_tokens *= 2;
  }
  const int chunks = static_cast<int>(parts(kv_tokens, work.chunk_tokens));
  const int gathered = v_statistics ? 2 : 1;
  const int64_t of_heads = heads * 2 * dim, partial = heads * kStatistics * dim * chunks;
  const int64_t scratch_bytes =
      (gathered * (of_heads + partial) + heads * (gathered + 1) * kLine) * sizeof(float);

  const auto options = q.options();
  const auto number = torch::kFloat32;
  // Twice: to count the bytes of all, and to place them one after the other.
  int64_t bytes = scratch_bytes;
  torch::Tensor memory;
  char *next = nullptr;
  const auto make = [&](bool wanted, std::initializer_list<int64_t> sizes, torch::ScalarType of) {
    if (!wanted) return apart ? torch::empty({0}, options.dtype(number)) : torch::Tensor();
    if (apart) return torch::empty(sizes, options.dtype(of));
    int64_t size = torch::bytes_of(of);
    for (const int64_t factor : sizes) size *= factor;
    size = parts(size, 256) * 256;  // as torch aligns tensors
    bytes += size;
    return torch::Tensor(memory, next == nullptr ? nullptr : std::exchange(next, next + size), sizes, of);
  };
  const auto make_all = [&] {
    const auto v_made = float8 ? make(true, {batch, kv_heads, dim, work.v_pitch}, torch::ScalarType::Float8_e4m3fn)
                               : make(touched, {batch, kv_heads, kv_tokens, dim}, torch::kHalf);
    return Prepared{make(true, {batch, q_heads, q_tokens, dim}, torch::kInt8),
                    make(true, {batch, q_heads, work.q_groups.total}, number),
                    make(true, {batch, kv_heads, kv_tokens, dim}, torch::kInt8),
                    make(true, {batch, kv_heads, work.k_groups.total}, number),
                    v_made,
                    make(touched, {batch, kv_heads, dim}, number),
                    make(smooth_v, {batch, kv_heads, dim}, float8 ? number : type),
                    make(correct, {batch, q_heads, q_tokens}, number)};
  };
  if (!apart) make_all();
  bytes = parts(bytes, 256) * 256;
  memory = torch::empty({bytes}, options.dtype(torch::kInt8));
  float *scratch = memory.data_ptr<float>();
  next = static_cast<char *>(memory.data_ptr()) + parts(scratch_bytes, 256) * 256;
  Prepared made = make_all();

  work.q_int8 = made.q.data_ptr<int8_t>(), work.k_int8 = made.k.data_ptr<int8_t>();
  work.q_scale = made.q_scale.data_ptr<float>(), work.k_scale = made.k_scale.data_ptr<float>();
  work.correction = correct ? made.correction.data_ptr<float>() : nullptr;
  work.v_made = made.v.data_ptr();
  work.v_scale = made.v_scale.data_ptr<float>();
  work.v_mean = smooth_v ? made.v_mean.data_ptr() : nullptr;
  const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
  work.k_statistics = {take(partial), take(of_heads), nullptr, chunks};
  if (v_statistics) work.v_statistics = {take(partial), take(of_heads), nullptr, chunks};
  void *zeros = scratch;
  work.k_statistics.progress = reinterpret_cast<unsigned *>(take(heads * kLine));
  work.q_progress = reinterpret_cast<unsigned *>(take(heads * kLine));
  if (v_statistics) work.v_statistics.progress = reinterpret_cast<unsigned *>(take(heads * kLine));
  const size_t zero_bytes = heads * (gathered + 1) * kLine * sizeof(float);
  sage::check(cudaMemsetAsync(zeros, 0, zero_bytes, torch::current_stream()));

  work.heads = static_cast<int>(heads);
  work.q_tiles = static_cast<int>(parts(q_tokens, kTile)) * work.q_per_kv;
  work.k_tiles = static_cast<int>(parts(kv_tokens, kTile));
  work.v_tiles = touched ? work.k_tiles : 0;
  const int64_t blocks = int64_t(gathered) * chunks + work.q_tiles + work.k_tiles + work.v_tiles;
  // Some times as many blocks as run at a time lie between a head's statistics and their use (tried on an H100).
  work.lag = static_cast<int>(std::min(heads, parts((dim == 64 ? 4 : 2) * at_a_time, blocks)));
  const dim3 grid = sage::grid(blocks * (heads + work.lag), 1, 1);
  const auto kernel = type == torch::ScalarType::Half
                          ? (dim == 64 ? PrepareKernel<half, 64> : PrepareKernel<half, 128>)
                          : (dim == 64 ? PrepareKernel<nv_bfloat16, 64> : PrepareKernel<nv_bfloat16, 128>);
  sage::launch(kernel, grid, dim3(dim * kPasses), 0, work);
  return made;
}
