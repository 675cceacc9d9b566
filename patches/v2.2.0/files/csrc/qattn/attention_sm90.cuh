// Attention on Hopper: int8 Q K^T and float8 P V on the tensor cores, with Q, K and V brought by the bulk copy engine.
//
// A warpgroup holds 64 rows of Q and goes over K and V in steps of 128 keys: products, largest product of each row,
// weights, products with V, sum. The integer products and the products with V share registers, so that three
// warpgroups fit on a multiprocessor, each filling the others' gaps. There are two shapes of a block:
//   shared  Three warpgroups of one head and a warp that brings K and V for all of them. As many blocks as
//           multiprocessors; each takes one tile after the other. Little traffic and power: for long sequences.
//   alone   One warpgroup, and three or four blocks on a multiprocessor. Little to set up, small tiles: for the others.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <climits>
#include <type_traits>

#include "../stable/launch.h"
#include "../stable/tensor_map.h"

namespace sage {
namespace hopper {

constexpr int kRows = 64, kKeys = 128;  // of a warpgroup's tile
// e4m3 ends at 448: weights are 2^(logit - largest + log2(448)), a bit less.
constexpr float kTop = 8.807f;
// The first products with V wait for half of the weights, and those for the units of exp2. With a head dim of 128 and
// no exact sum, blocks of three warpgroups compute these of the 32 pairs that a thread has (of neighbouring keys) by
// other units. Of 20 choices timed they were the fastest over all lengths; with none, and with many others, registers
// do not suffice (see C7511).
__device__ constexpr bool computed(int pair) { return pair == 1 || pair == 6 || pair == 11; }

struct Tile {
  int batch, head, kv_head;
  int unit, units;  // the first 64 rows, and how many times 64
  int steps;        // blocks of 128 keys
};

// A bool known to the compiler, as a value.
template <bool value>
struct Known {
  __device__ constexpr operator bool() const { return value; }
};

// What a kernel is told.
struct Task {
  const float *q_scale, *k_scale, *v_scale;  // v_scale is null where V needs none
  void *output;
  float *lse;  // null where it is not asked for
  int64_t output_batch, output_head, output_token;  // strides
  int64_t q_scale_head, k_scale_head;
  int q_len, kv_len, units;               // units of 64 rows of Q
  int heads, kv_heads, group, all_heads;  // of Q, of K, how many of Q share one of K, and of Q in all batches
  float scale;                            // of the softmax, times log2(e)
  bool causal, bfloat16, per_thread;
  int nothing;  // 0, which the compiler does not know
  // Of a block of three warpgroups. The first `whole` of `tiles` have three units. The others have rest_units;
  // rest_tiles of them are of the first head that is not whole.
  int tiles, whole, rest_units, rest_tiles;
  int together;  // With a causal mask: heads whose tiles go in one order.
};

// Barriers and copies, by addresses in shared memory.
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {  // arrives too
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra.uni again; }" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
__device__ __forceinline__ bool elected() {  // one thread of a warp
  uint32_t one;
  asm volatile("{ .reg .pred one; elect.sync _|one, 0xffffffff; selp.u32 %0, 1, 0, one; }" : "=r"(one));
  return one != 0;
}
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap *from, uint32_t barrier, int x, int y,
                                          int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(from)), "r"(barrier), "r"(x), "r"(y), "r"(head), "r"(batch)
      : "memory");
}

// The matrix instructions. Registers of one in flight must not be touched: `settle` stands before and after.
template <typename T, int N>
__device__ __forceinline__ void settle(T (&a)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    if constexpr (sizeof(T) == 4 && T(0.5f) != T(0)) asm volatile("" : "+f"(a[i])::"memory");
    else asm volatile("" : "+r"(a[i])::"memory");
  }
}
template <int N>
__device__ __forceinline__ void settle(uint32_t (&a)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) settle(a[i]);
}
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int left>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

// Describes a matrix in shared memory, its rows of `row` bytes swizzled over as many. Addresses in it count 16 bytes.
template <int row>
constexpr uint64_t kMatrix = uint64_t(8 * row >> 4 | (row == 128 ? 1 : 2) << 30) << 32 | 1 << 16;
template <int row>
__device__ __forceinline__ uint64_t matrix(uint32_t address) {
  return kMatrix<row> + (address >> 4);
}

#define R8(a) "%" #a "0, %" #a "1, %" #a "2, %" #a "3, %" #a "4, %" #a "5, %" #a "6, %" #a "7, %" #a "8, %" #a "9, "
#define REGISTERS_0_29 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " R8(1) R8(2)
#define REGISTERS_0_59 REGISTERS_0_29 R8(3) R8(4) R8(5)
#define OUT4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define OUT16(c, i) OUT4(c, i), OUT4(c, i + 4), OUT4(c, i + 8), OUT4(c, i + 12)
#define OUT32(c, i) OUT16(c, i), OUT16(c, i + 16)

// d (+)= a b^T for 64 rows of a and 128 of b, 32 bytes of each.
__device__ __forceinline__ void multiply_qk(int (&d)[64], uint64_t a, uint64_t b, int add) {
  asm volatile("{ .reg .pred add; setp.ne.b32 add, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" REGISTERS_0_59
               "%60, %61, %62, %63}, %64, %65, add; }"
               : OUT32("+r", 0), OUT32("+r", 32)
               : "l"(a), "l"(b), "r"(add));
}

// The same for weights in registers, with 128 or 64 channels of V and 8 more, of ones.
__device__ __forceinline__ void multiply_pv(float (&d)[68], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile("{ .reg .pred add; setp.ne.b32 add, %73, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n136k32.f32.e4m3.e4m3 {" REGISTERS_0_59
               "%60, %61, %62, %63, %64, %65, %66, %67}, {%68, %69, %70, %71}, %72, add, 1, 1; }"
               : OUT32("+f", 0), OUT32("+f", 32), OUT4("+f", 64)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ __forceinline__ void multiply_pv(float (&d)[36], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile("{ .reg .pred add; setp.ne.b32 add, %41, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n72k32.f32.e4m3.e4m3 {" REGISTERS_0_29
               "%30, %31, %32, %33, %34, %35}, {%36, %37, %38, %39}, %40, add, 1, 1; }"
               : OUT32("+f", 0), OUT4("+f", 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
// With 64 channels alone. Where products of Q and K were, the registers are those of an int, and get floats.
#define MULTIPLY_PV_64(registers, constraint)                                                                        \
  __device__ __forceinline__ void multiply_pv(registers, const uint32_t (&a)[4], uint64_t b, int add) {              \
    asm volatile("{ .reg .pred add; setp.ne.b32 add, %37, 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" REGISTERS_0_29                             \
                 "%30, %31}, {%32, %33, %34, %35}, %36, add, 1, 1; }"                                                \
                 : OUT32(constraint, 0)                                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                    \
  }
MULTIPLY_PV_64(float (&d)[32], "+f")
MULTIPLY_PV_64(int (&d)[64], "+r")
#undef MULTIPLY_PV_64
#undef R8
#undef REGISTERS_0_29
#undef REGISTERS_0_59
#undef OUT4
#undef OUT16
#undef OUT32

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 2^a and 2^b as float8, by adding and multiplying: at most 0.5 % off, where float8 is 6 % off. a and b come with
// kPoint added, so that their last 16 bits are a + 15 with 10 bits after the point. Those, as a half, are
// 2^whole * (1 + rest), and a parabola is 2^rest / (1 + rest). Below -14 float8 has 0. Above 15 it has 448: logits of
// 2^26 and more may be rounded to there, from callers of the operator whose logits nobody clamps, as prepare.cu does.
constexpr float kPoint = 12288.0f + 15.0f;
__device__ __forceinline__ uint16_t exp2_pair(float a, float b) {
  a = fminf(fmaxf(a, kPoint - 15.0f), kPoint + 15.0f), b = fminf(fmaxf(b, kPoint - 15.0f), kPoint + 15.0f);
  const uint32_t both = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x5410);
  uint16_t packed;
  asm("{ .reg .b32 part, power;\n"
      "lop3.b32 part, %1, %2, %3, 0xea;\n"  // 1 + rest
      "fma.rn.f16x2 power, part, %4, %5;\n"
      "fma.rn.f16x2 power, power, part, %6;\n"
      "mul.rn.f16x2 power, power, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 %0, power; }"
      : "=h"(packed)
      : "r"(both), "r"(0x03ff03ff), "r"(0x3c003c00),
        "r"(0x337b337b), "r"(0xb98eb98e), "r"(0x3dd43dd4));  // 0.2337, -0.694, 1.457
  return packed;
}
__device__ __forceinline__ uint32_t shift_left(uint32_t x, uint32_t bits) {  // by 32 and more, too
  uint32_t shifted;
  asm("shl.b32 %0, %1, %2;" : "=r"(shifted) : "r"(x), "r"(bits));
  return shifted;
}
__device__ __forceinline__ uint16_t to_float8(float a, float b) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(packed) : "f"(a), "f"(b));
  return packed;
}

template <int head_dim, bool alone>
struct Shape {
  static constexpr int kGroups = alone ? 1 : 3;  // of four warps, which compute
  static constexpr int kThreads = alone ? 128 : 512;
  static constexpr int kBlocks = alone ? (head_dim == 64 ? 4 : 3) : 1;  // on a multiprocessor
  static constexpr int kQBytes = kRows * head_dim, kKBytes = kKeys * head_dim, kVBytes = kKeys * head_dim;
  static constexpr int kOnes = 1024;  // 8 rows of ones, after those of V: their products are the sums of the weights
  static constexpr int kStage = kKBytes + kVBytes + kOnes;
  static constexpr int kQs = alone ? 1 : 2;
  static constexpr int kStages = alone ? (head_dim == 64 ? 3 : 2) : head_dim == 64 ? 8 : 5;  // as many as fit
  // Shared memory: tiles of Q; of each stage K, V and ones; for each stage and for each Q a barrier for what is there
  // and one for what is free, then the scales of K (or, of a block that is alone, a barrier for V, which comes later).
  static constexpr int kStages0 = kQs * kGroups * kQBytes, kControl = kStages0 + kStages * kStage, kControlBytes = 32;
  static constexpr int kFree = 8, kScales = 16, kVFull = 16;
  // At the end, for each Q, notes of its tile: the scales of V and, for three warpgroups, theirs of Q, and the tile.
  static constexpr int kNotes0 = kControl + (kStages + kQs) * kControlBytes;
  static constexpr int kQScales = head_dim * 4, kTile = kQScales + kGroups * 128;
  static constexpr int kNotes = alone ? head_dim * 4 : kTile + 32;
  static constexpr int kShared = kNotes0 + kQs * kNotes;
  static_assert(kBlocks * (kShared + 1024) <= 233472);
};

// How many blocks of keys the rows before `rows` see.
__device__ __forceinline__ int blocks_of_keys(const Task &task, int rows) {
  return ((task.causal ? min(rows, task.kv_len) : task.kv_len) + kKeys - 1) / kKeys;
}

// The t-th tile of a launch in which `groups` warpgroups share one.
template <int groups>
__device__ __forceinline__ Tile tile_at(int t, const Task &task) {
  Tile tile;
  const int of_head = (task.units + groups - 1) / groups;
  int most = groups, head;
  if (task.causal) {  // the longest first, and a few heads at a time, for their K and V to stay in the L2 cache
    const int first = t / (task.together * of_head) * task.together;
    const int together = min(task.all_heads - first, task.together), left = t - first * of_head;
    head = first + left % together;
    tile.unit = (of_head - 1 - left / together) * groups;
  } else if (t < task.whole) {
    head = t / of_head;
    tile.unit = (t - head * of_head) * groups;
  } else {
    most = task.rest_units;
    head = task.whole / of_head;
    tile.unit = (task.whole - head * of_head) * groups + (t - task.whole) * most;
    const int after = t - task.whole - task.rest_tiles;
    if (after >= 0) {
      const int smaller = (task.units + most - 1) / most, heads = after / smaller;
      head += 1 + heads;
      tile.unit = (after - heads * smaller) * most;
    }
  }
  tile.batch = head / task.heads;
  tile.head = head - tile.batch * task.heads;
  tile.kv_head = tile.head / task.group;
  tile.units = min(most, task.units - tile.unit);
  tile.steps = blocks_of_keys(task, (tile.unit + tile.units) * kRows);
  return tile;
}

// The scale of the i-th of 32 groups of rows of Q in the w-th unit of a tile, times the softmax's.
__device__ __forceinline__ float scale_of_q(const Task &task, const Tile &tile, int w, int i) {
  const int at = (tile.unit + w) * 32 + i;
  const int64_t head = static_cast<int64_t>(tile.batch) * task.heads + tile.head;
  return task.q_scale[head * task.q_scale_head + (task.per_thread ? at : at / 8)] * task.scale;
}

// The number of a tile's head of K and V, over all batches.
__device__ __forceinline__ int64_t kv_head_of(const Task &task, const Tile &tile) {
  return static_cast<int64_t>(tile.batch) * task.kv_heads + tile.kv_head;
}

// exact_sum: sum the weights as they are, for the logsumexp, besides those rounded to float8, which O is divided by.
template <int head_dim, bool alone, bool exact_sum>
__global__ __launch_bounds__(Shape<head_dim, alone>::kThreads, Shape<head_dim, alone>::kBlocks) void attend(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
    const __grid_constant__ CUtensorMap v_map, const __grid_constant__ Task task) {
  using S_ = Shape<head_dim, alone>;
  constexpr int kGroups = S_::kGroups, kStages = S_::kStages;
  constexpr bool kHalves = !alone && head_dim == 128;
  extern __shared__ __align__(1024) uint8_t memory[];
  // The compiler would compute the address anew wherever it is used.
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory)) + task.nothing;
  const uint32_t control0 = base + S_::kControl, q_control0 = control0 + kStages * S_::kControlBytes;

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0), lane = threadIdx.x & 31;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages + S_::kQs; i++) {
      const uint32_t control = control0 + i * S_::kControlBytes;
      barrier_init(control, 1);
      barrier_init(control + S_::kFree, 4 * kGroups);
      if (alone) barrier_init(control + S_::kVFull, 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }

  Tile tile = {};
  float q_scale = 0.0f, k_next = 0.0f;
  const float *k_scale = nullptr;
  // A block that is alone brings its own K and V.
  auto bring = [&](int i, int stage) {
    const uint32_t control = control0 + stage * S_::kControlBytes, to = base + S_::kStages0 + stage * S_::kStage;
    barrier_expect(control, S_::kKBytes);
    copy_tile(to, &k_map, control, 0, i * kKeys, tile.kv_head, tile.batch);
    barrier_expect(control + S_::kVFull, S_::kVBytes);
    copy_tile(to + S_::kKBytes, &v_map, control + S_::kVFull, i * kKeys, 0, tile.kv_head, tile.batch);
  };
  if constexpr (alone) {
    tile.batch = blockIdx.z, tile.head = blockIdx.y, tile.kv_head = blockIdx.y / task.group;
    tile.unit = task.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x, tile.units = 1;  // the longest first
    tile.steps = blocks_of_keys(task, (tile.unit + 1) * kRows);
    if (threadIdx.x == 0 && tile.steps > 0) {
      barrier_expect(q_control0, S_::kQBytes);
      copy_tile(base, &q_map, q_control0, 0, tile.unit * kRows, tile.head, tile.batch);
      for (int i = 0; i < kStages && i < tile.steps; i++) bring(i, i);
    }
    // All loads before anything waits for one.
    float v_scale = 1.0f;
    if (threadIdx.x < head_dim && task.v_scale != nullptr) {
      v_scale = task.v_scale[kv_head_of(task, tile) * head_dim + threadIdx.x];
    }
    q_scale = scale_of_q(task, tile, 0, threadIdx.x / 4);
    k_scale = task.k_scale + kv_head_of(task, tile) * task.k_scale_head + (task.per_thread ? lane & 3 : 0);
    if (tile.steps > 0) k_next = *k_scale;
    if (threadIdx.x < head_dim) reinterpret_cast<float *>(memory + S_::kNotes0)[threadIdx.x] = v_scale;
  }
  if (threadIdx.x < S_::kOnes / 16) {
    constexpr uint32_t kOne = 0x38383838;  // four times
#pragma unroll
    for (int stage = 0; stage < kStages; stage++) {
      reinterpret_cast<uint4 *>(memory + S_::kStages0 + (stage + 1) * S_::kStage - S_::kOnes)[threadIdx.x] =
          make_uint4(kOne, kOne, kOne, kOne);
    }
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();

  if (!alone && warpgroup == 0) {
    if constexpr (!alone) asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (!alone && threadIdx.x < 32) {  // notes by all of the warp, copies by one thread
      int stage = 0, q = 0;
      uint32_t phase = 1, q_phase = 1;  // before the first arrival, the phase before is over
      for (int wave = 0;; wave++) {
        // In every second wave the blocks take their tiles in reverse order.
        const int t = wave * gridDim.x + (wave & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        const bool some = t < task.tiles;
        const uint32_t q_control = q_control0 + q * S_::kControlBytes;
        barrier_wait(q_control + S_::kFree, q_phase);
        uint8_t *const notes = memory + S_::kNotes0 + q * S_::kNotes;
        if (some) {
          tile = tile_at<kGroups>(t, task);
#pragma unroll 1
          for (int i = lane; i < head_dim; i += 32) {
            reinterpret_cast<float *>(notes)[i] =
                task.v_scale == nullptr ? 1.0f : task.v_scale[kv_head_of(task, tile) * head_dim + i];
          }
#pragma unroll 1
          for (int w = 0; w < tile.units; w++) {
            reinterpret_cast<float *>(notes + S_::kQScales)[w * 32 + lane] = scale_of_q(task, tile, w, lane);
          }
        } else {
          tile.units = 0;
        }
        if (lane == 0) *reinterpret_cast<Tile *>(notes + S_::kTile) = tile;
        __syncwarp();
        if (lane == 0) {
          barrier_expect(q_control, tile.units * S_::kQBytes);
#pragma unroll 1
          for (int w = 0; w < tile.units; w++) {
            copy_tile(base + (q * kGroups + w) * S_::kQBytes, &q_map, q_control, 0, (tile.unit + w) * kRows, tile.head,
                      tile.batch);
          }
        }
        if (!some) break;
        if (++q == S_::kQs) q = 0, q_phase ^= 1;
        if (lane == 0) {
          const float *const k_scale = task.k_scale + kv_head_of(task, tile) * task.k_scale_head;
#pragma unroll 1
          for (int i = 0; i < tile.steps; i++) {
            const uint32_t control = control0 + stage * S_::kControlBytes;
            const uint32_t to = base + S_::kStages0 + stage * S_::kStage;
            barrier_wait(control + S_::kFree, phase);
            asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(control),
                         "r"(S_::kKBytes + S_::kVBytes)
                         : "memory");
            copy_tile(to, &k_map, control, 0, i * kKeys, tile.kv_head, tile.batch);
            copy_tile(to + S_::kKBytes, &v_map, control, i * kKeys, 0, tile.kv_head, tile.batch);
            float scale[4];
#pragma unroll
            for (int j = 0; j < 4; j++) scale[j] = k_scale[task.per_thread ? 4 * i + j : i];
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(control + S_::kScales), "f"(scale[0]),
                         "f"(scale[1]), "f"(scale[2]), "f"(scale[3])
                         : "memory");
            barrier_arrive(control);
            if (++stage == kStages) stage = 0, phase ^= 1;
          }
        }
        __syncwarp();
      }
    }
  } else {
    if constexpr (!alone) asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int w = alone ? 0 : warpgroup - 1, warp = (threadIdx.x & 127) >> 5;
    // Through a shuffle, or the compiler would compute it anew in each step.
    const uint32_t scales = __shfl_sync(~0u, (lane & 3) * 4 + S_::kScales, lane);
    uint32_t control = control0, phase = 0, q = 0, q_phase = 0;
    uint64_t q_matrix = matrix<head_dim>(base + w * S_::kQBytes), k_matrix = matrix<head_dim>(base + S_::kStages0);
    auto next_stage = [&]() {
      control += S_::kControlBytes;
      k_matrix += S_::kStage >> 4;
      if (control == q_control0) {
        control = control0;
        k_matrix -= kStages * S_::kStage >> 4;
        phase ^= 1;
      }
    };
    while (true) {
      const uint8_t *const notes = memory + S_::kNotes0 + q * S_::kNotes;
      if (!alone || tile.steps > 0) barrier_wait(q_control0 + q * S_::kControlBytes, q_phase);
      if constexpr (!alone) {
        tile = *reinterpret_cast<const Tile *>(notes + S_::kTile);
        tile.units = __shfl_sync(~0u, tile.units, 0);
        tile.unit = __shfl_sync(~0u, tile.unit, 0);
        tile.steps = __shfl_sync(~0u, tile.steps, 0);
        if (tile.units == 0) break;
        q_scale = reinterpret_cast<const float *>(notes + S_::kQScales)[w * 32 + (threadIdx.x & 127) / 4];
      }
      const int row0 = (tile.unit + w) * kRows;
      int steps = tile.steps;
      if (!alone) steps = w >= tile.units ? 0 : task.causal ? blocks_of_keys(task, row0 + kRows) : steps;
      // Steps from this one on have keys that some row does not see.
      const int masked_from = (task.causal ? min(task.kv_len, row0 + 1) : task.kv_len) / kKeys;
      const int k_step = task.per_thread ? 4 : 1;
      float O[head_dim / 2], sum[2] = {0.0f, 0.0f}, exact[2] = {0.0f, 0.0f};
      float offset[2] = {INFINITY, INFINITY};  // kTop less the largest logit of the row
#pragma unroll
      for (int i = 0; i < head_dim / 2; i++) O[i] = 0.0f;

      int s = 0;
      if (kHalves && steps > 0) barrier_wait(control, phase);
      auto step = [&](auto masked) {  // whether some row does not see all keys
        int S[kKeys / 2];
        uint32_t P[kKeys / 32][4];
        if (!kHalves) barrier_wait(control, phase);
        settle(S);
        products_begin();
#pragma unroll
        for (int k = 0; k < head_dim / 32; k++) {
          multiply_qk(S, q_matrix + 2 * k, k_matrix + 2 * k, k > 0);
        }
        products_end();
        float scale;
        if constexpr (alone) {
          scale = q_scale * k_next;
          if (s + 1 < steps) k_next = *(k_scale += k_step);
          const int before = s - 1, next = before + kStages;
          if (before >= 0 && next < steps && threadIdx.x == 0) {  // into the stage of the step before
            const int of_it = before % kStages;
            barrier_wait(control0 + of_it * S_::kControlBytes + S_::kFree, before / kStages & 1);
            bring(next, of_it);
          }
          __syncwarp();
        } else {
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(scale) : "r"(control + scales));
          scale *= q_scale;
        }
        products_wait<0>();
        settle(S);

        // Of the 32 keys of a thread, in order, how many a row sees.
        auto keys_seen = [&](int half) {
          const int row = row0 + warp * 16 + (lane >> 2) + 8 * half;
          const int left = (task.causal ? min(task.kv_len, row + 1) : task.kv_len) - s * kKeys - (lane & 3) * 2;
          return max(0, (left >> 3) * 2 + min(left & 7, 2));
        };
        float fade[2];
        // Bit i of `hidden`: whether the row does not see the i-th of the thread's keys.
        auto find_largest = [&](auto some_hidden, const uint32_t (&hidden)[2]) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            auto product = [&](int i) {
              int &of_key = S[i / 2 * 4 + half * 2 + i % 2];
              const int seen = some_hidden && (hidden[half] >> i & 1) ? INT_MIN : of_key;
              if constexpr (exact_sum) of_key = seen;
              return seen;
            };
            int top[2];
#pragma unroll
            for (int j = 0; j < kKeys / 8; j++) {
              const int one = product(2 * j), other = product(2 * j + 1);
              top[j & 1] = j < 2 ? max(one, other) : __vimax3_s32(top[j & 1], one, other);
            }
            const int largest = max(top[0], top[1]);
            float logit = static_cast<float>(largest) * scale;
            if (some_hidden && largest == INT_MIN) logit = -INFINITY;  // the scale may be small
            logit = fmaxf(logit, __shfl_xor_sync(~0u, logit, 1));
            logit = fmaxf(logit, __shfl_xor_sync(~0u, logit, 2));
            const float next = fminf(offset[half], kTop - logit);
            fade[half] = exp2_of(next - offset[half]);
            offset[half] = next;
            if constexpr (exact_sum) exact[half] *= fade[half];
          }
        };
        if (masked) {
          const uint32_t hidden[2] = {shift_left(~0u, keys_seen(0)), shift_left(~0u, keys_seen(1))};
          find_largest(Known<true>(), hidden);
          if constexpr (exact_sum) {
#pragma unroll
            for (int i = 0; i < kKeys / 2; i++) {
              const int half = (i >> 1) & 1;
              if (S[i] != INT_MIN) exact[half] += exp2_of(fmaf(static_cast<float>(S[i]), scale, offset[half]));
            }
          }
          asm volatile("");  // the compiler would make one of both
        } else {
          find_largest(Known<false>(), {0, 0});
        }

        const float with_point[2] = {offset[0] + kPoint, offset[1] + kPoint};
        // The r-th register of weights: four keys of a row.
        auto weigh = [&](int from, int to) {
#pragma unroll
          for (int r = from; r < to; r++) {
            const int half = r & 1;
            const int *const products = S + r / 4 * 16 + (r & 2) * 4 + half * 2;
            uint16_t pairs[2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
              const float a = static_cast<float>(products[4 * j]), b = static_cast<float>(products[4 * j + 1]);
              if (kHalves && !exact_sum && computed(2 * r + j)) {
                pairs[j] = exp2_pair(fmaf(a, scale, with_point[half]), fmaf(b, scale, with_point[half]));
              } else {
                const float x = exp2_of(fmaf(a, scale, offset[half])), y = exp2_of(fmaf(b, scale, offset[half]));
                if (exact_sum && !masked) exact[half] += x + y;
                pairs[j] = to_float8(x, y);
              }
            }
            asm("mov.b32 %0, {%1, %2};" : "=r"(P[r / 4][r & 3]) : "h"(pairs[0]), "h"(pairs[1]));
          }
          if (masked) {
            const int seen[2] = {8 * keys_seen(0), 8 * keys_seen(1)};
#pragma unroll
            for (int r = from; r < to; r++) {  // in bytes
              P[r / 4][r & 3] &= ~shift_left(~0u, max(0, seen[r & 1] - (r / 4 * 64 + (r & 2) * 16)));
            }
          }
        };

        const uint64_t v_matrix = k_matrix + (kMatrix<128> - kMatrix<head_dim> + (S_::kKBytes >> 4));
        // O takes up the first half of the channels while the tensor cores compute the second. In the usual loop they
        // start with half of the weights. With a head dim of 128 the products are then in registers of products no
        // longer needed. That takes all registers: if they do not suffice, ptxas says so (C7511) and waits for each
        // instruction.
        constexpr int kFirst = kHalves ? head_dim / 4 : head_dim / 2 + 4;
        constexpr bool kEarly = !alone && std::is_same_v<decltype(masked), Known<false>>;
        float first[kFirst];
        if constexpr (kEarly) {
          auto multiply = [&](auto &to) {
            weigh(0, kKeys / 16);
            settle(to);
            products_begin();
            multiply_pv(to, P[0], v_matrix, 0);
            multiply_pv(to, P[1], v_matrix + 2, 1);
            products_end();
            weigh(kKeys / 16, kKeys / 8);
            products_begin();
            multiply_pv(to, P[2], v_matrix + 4, 1);
            multiply_pv(to, P[3], v_matrix + 6, 1);
          };
          if constexpr (kHalves) multiply(S);
          else multiply(first);
        } else {
          weigh(0, kKeys / 8);
          if constexpr (alone) barrier_wait(control + S_::kVFull, phase);
          settle(first);
          products_begin();
#pragma unroll
          for (int k = 0; k < kKeys / 32; k++) multiply_pv(first, P[k], v_matrix + 2 * k, k > 0);
        }
        products_end();
        if constexpr (kHalves) {
          constexpr int kSecond = head_dim / 2 + 4 - kFirst;
          float second[kSecond];
          settle(second);
#pragma unroll
          for (int k = 0; k < kKeys / 32; k++) {
            multiply_pv(second, P[k], v_matrix + (head_dim / 2 * kKeys >> 4) + 2 * k, k > 0);
          }
          products_end();
          products_wait<1>();
          if constexpr (kEarly) {
            settle(S);
#pragma unroll
            for (int i = 0; i < kFirst; i++) first[i] = __int_as_float(S[i]);
          }
          settle(first);
#pragma unroll
          for (int i = 0; i < kFirst; i++) O[i] = fmaf(O[i], fade[(i >> 1) & 1], first[i]);
          settle(O);
          // Wait for the next K here: the compiler does not move the other wait, for the products, past this one.
          const uint32_t done = control + S_::kFree;
          next_stage();
          if (s + 1 < steps) barrier_wait(control, phase);
          products_wait<0>();
          settle(second);
          settle(P);
          if (elected()) barrier_arrive(done);
#pragma unroll
          for (int i = kFirst; i < head_dim / 2; i++) O[i] = fmaf(O[i], fade[(i >> 1) & 1], second[i - kFirst]);
          sum[0] = fmaf(sum[0], fade[0], second[kSecond - 4]);
          sum[1] = fmaf(sum[1], fade[1], second[kSecond - 2]);
        } else {
          products_wait<0>();
          settle(first);
          settle(P);
          if (elected()) barrier_arrive(control + S_::kFree);
#pragma unroll
          for (int i = 0; i < head_dim / 2; i++) O[i] = fmaf(O[i], fade[(i >> 1) & 1], first[i]);
          sum[0] = fmaf(sum[0], fade[0], first[kFirst - 4]);
          sum[1] = fmaf(sum[1], fade[1], first[kFirst - 2]);
          next_stage();
        }
      };
      if constexpr (exact_sum) {
#pragma unroll 1
        for (; s < steps; s++) step(s >= masked_from);
      } else {  // a loop of few instructions for most of the steps is faster
        const int whole = min(steps, masked_from);
#pragma unroll 1
        for (; s < whole; s++) step(Known<false>());
#pragma unroll 1
        for (; s < steps; s++) step(Known<true>());
      }
      if constexpr (!alone) {  // without the keys that only the rows of other warpgroups see
#pragma unroll 1
        for (; s < tile.steps; s++) {
          barrier_wait(control, phase);
          if (elected()) barrier_arrive(control + S_::kFree);
          next_stage();
        }
        tile = *reinterpret_cast<const Tile *>(notes + S_::kTile);
      }

      if (w < tile.units) {
        const int column = 2 * (lane & 3), row = (tile.unit + w) * kRows + warp * 16 + (lane >> 2);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float part = sum[half] > 0.0f ? 1.0f / sum[half] : 0.0f;
#pragma unroll
          for (int j = 0; j < head_dim / 8; j++) O[4 * j + 2 * half] *= part, O[4 * j + 2 * half + 1] *= part;
        }
        const float *const v_scale = reinterpret_cast<const float *>(notes) + column;
#pragma unroll
        for (int j = 0; j < head_dim / 8; j++) {
          const float2 v = *reinterpret_cast<const float2 *>(v_scale + 8 * j);
          O[4 * j] *= v.x, O[4 * j + 1] *= v.y, O[4 * j + 2] *= v.x, O[4 * j + 3] *= v.y;
        }
        auto write = [&](auto to16) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            if (row + 8 * half >= task.q_len) continue;
            auto *const to = static_cast<decltype(to16(float2())) *>(task.output) +
                             (tile.batch * task.output_batch + tile.head * task.output_head +
                              (row + 8 * half) * task.output_token + column) / 2;
#pragma unroll
            for (int j = 0; j < head_dim / 8; j++) {
              to[4 * j] = to16(make_float2(O[4 * j + 2 * half], O[4 * j + 2 * half + 1]));
            }
          }
        };
        if (task.bfloat16) write([](float2 x) { return __float22bfloat162_rn(x); });
        else write([](float2 x) { return __float22half2_rn(x); });
        if constexpr (exact_sum) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            float of_row = exact[half];
            of_row += __shfl_xor_sync(~0u, of_row, 1);
            of_row += __shfl_xor_sync(~0u, of_row, 2);
            if (column == 0 && row + 8 * half < task.q_len) {
              const int64_t head = static_cast<int64_t>(tile.batch) * task.heads + tile.head;
              task.lse[head * task.q_len + row + 8 * half] = log2f(of_row) - offset[half];
            }
          }
        }
      }
      if constexpr (alone) break;
      __syncwarp();
      if (elected()) barrier_arrive(q_control0 + q * S_::kControlBytes + S_::kFree);
      q_matrix += kGroups * S_::kQBytes >> 4;
      if (++q == S_::kQs) {
        q = 0;
        q_matrix -= S_::kQs * kGroups * S_::kQBytes >> 4;
        q_phase ^= 1;
      }
    }
  }
}

// A tensor of bytes for the copy engine, in boxes of `box_rows` x `box` swizzled over their width.
struct Bytes {
  const torch::Tensor &tensor;
  int rows, heads;  // which dimensions these are; the first is the batch, and the last one is contiguous
};
inline CUtensorMap tensor_map(const Bytes &bytes, uint32_t box_rows, uint32_t box) {
  const torch::Tensor &tensor = bytes.tensor;
  CUtensorMap map = {};
  if (tensor.numel() == 0) return map;  // is not read
  const int dims[4] = {3, bytes.rows, bytes.heads, 0};
  cuuint64_t sizes[4], strides[4];
  const cuuint32_t boxes[4] = {box, box_rows, 1, 1}, steps[4] = {1, 1, 1, 1};
  for (int i = 0; i < 4; i++) {
    sizes[i] = tensor.size(dims[i]);
    strides[i] = sizes[i] == 1 ? 16 : tensor.stride(dims[i]);  // one that is not used may not fit the driver's rules
  }
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 4, tensor.data_ptr(), sizes, strides + 1, boxes, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, box == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TORCH_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled refuses a tensor of ", sizes[3], " x ", sizes[2], " x ",
              sizes[1], " x ", sizes[0], " with strides ", strides[3], ", ", strides[2], ", ", strides[1],
              ": CUDA driver error ", static_cast<int>(result));
  return map;
}

// Cuts the rows into tiles for blocks of three warpgroups. Returns how long they take, as a multiple of a whole tile.
inline float cut_tiles(Task &task, int multiprocessors) {
  constexpr int kGroups = Shape<64, false>::kGroups;
  constexpr float kTime[] = {0.0f, 0.5f, 0.71f, 1.0f};  // of a tile of so many units, as measured
  TORCH_CHECK(static_cast<int64_t>(task.units) * task.all_heads <= INT_MAX, "too many heads or batches, or too long");
  const int of_head = (task.units + kGroups - 1) / kGroups;
  task.tiles = task.whole = of_head * task.all_heads;
  // With a causal mask the longest tiles of all heads come first; of so many that two tiles of a head, or more, are at
  // work at a time.
  const int most = multiprocessors / 2 * task.group, parts = (task.all_heads + most - 1) / most;
  task.together = (task.all_heads + parts - 1) / parts;
  if (task.causal) return static_cast<float>(task.tiles) / multiprocessors;
  // The last tiles, which not all multiprocessors would get one of, are cut as small as can be for each to get one.
  task.whole = task.tiles / multiprocessors * multiprocessors;
  if (task.whole == task.tiles) return task.whole / multiprocessors;
  const int in_first = task.units - task.whole % of_head * kGroups;
  const int later_heads = task.all_heads - task.whole / of_head - 1;
  for (int units = 1; units <= kGroups; units++) {
    task.rest_units = units;
    task.rest_tiles = (in_first + units - 1) / units;
    task.tiles = task.whole + task.rest_tiles + (task.units + units - 1) / units * later_heads;
    if (task.tiles - task.whole <= multiprocessors) break;
  }
  return task.whole / multiprocessors + kTime[task.rest_units];
}

// Whether blocks of one warpgroup are faster than those of three, which take `time`. The figures are fitted to what an
// H200 measured in steady state, from 128 to 32,760 tokens. Blocks of one warpgroup draw more power, which lowers the
// clock.
inline bool alone_is_faster(const Task &task, int head_dim, int multiprocessors, float time) {
  if (task.heads > 65535 || task.all_heads / task.heads > 65535) return false;  // CUDA has no such grid
  if (task.causal) return time < 1.25f || std::min(task.q_len, task.kv_len) < 1536;
  const float units = static_cast<float>(task.units) * task.all_heads / multiprocessors;
  if (units <= 1.0f) return task.kv_len < 4096;  // one each: those of three bring K and V further ahead
  if (task.kv_len < (head_dim == 64 ? 1024 : 512)) return true;
  return units * (head_dim == 64 ? 1.07f : task.kv_len < 2048 ? 1.02f : 1.15f) < 3 * time;
}

template <int head_dim, bool alone, bool exact_sum>
void launch_shape(const Task &task, int multiprocessors, const Bytes &q, const Bytes &k, const Bytes &v) {
  using S_ = Shape<head_dim, alone>;
  dim3 grid = {};
  if constexpr (alone) {
    grid = sage::grid(task.units, task.heads, task.all_heads / task.heads);
  } else {
    grid = sage::grid(std::min(task.tiles, multiprocessors), 1, 1);
  }
  const CUtensorMap q_map = tensor_map(q, kRows, head_dim), k_map = tensor_map(k, kKeys, head_dim),
                    v_map = tensor_map(v, head_dim, kKeys);
  const auto kernel = attend<head_dim, alone, exact_sum>;
  sage::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S_::kShared));
  sage::launch(kernel, grid, S_::kThreads, S_::kShared, q_map, k_map, v_map, task);
}

template <int head_dim>
void launch(Task task, const Bytes &q, const Bytes &k, const Bytes &v) {
  int device = 0, multiprocessors = 0;
  sage::check(cudaGetDevice(&device));
  sage::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const float time = cut_tiles(task, multiprocessors);
  const bool alone = alone_is_faster(task, head_dim, multiprocessors, time), lse = task.lse != nullptr;
  const auto launch = alone ? (lse ? launch_shape<head_dim, true, true> : launch_shape<head_dim, true, false>)
                            : (lse ? launch_shape<head_dim, false, true> : launch_shape<head_dim, false, false>);
  launch(task, multiprocessors, q, k, v);
}

}  // namespace hopper
}  // namespace sage
