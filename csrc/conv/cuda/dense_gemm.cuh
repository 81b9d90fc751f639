// One pass of a convolution as a matrix product: 128 pixels times 32 or 64 output channels, summed
// over taps and chunks of input channels.
//
// A convolution along a line is a sum over its taps of matrix products, and the rows that a tap
// needs are those of its neighbour, moved by a number of pixels. So pixels lie in shared memory as
// rows of channels, once for all taps: a lane gives ldmatrix the address of its pixel plus the
// tap's distance. Weights come through a ring of three stages, a step (chunk, tap) each, by
// cp.async, two steps ahead; a step has one barrier.
//
// Rows of shared memory are an odd number of 16-byte units apart, so that the eight rows of one
// matrix lie in different banks. A float is moved by ldmatrix as two halves: a register then holds
// row g, column q of a matrix of 8 x 4 floats, which is what the mma of TF32 wants.
//
// Math: 16-bit types by mma.m16n8k16, float by mma.m16n8k8 of TF32, or (kFma) by fused
// multiply-adds in the same layout of results: 4 rows x 2 kNj columns a lane, of which four k's
// take 4 + 2 kNj loads of 16 bytes for 32 kNj multiply-adds.
#pragma once

#include "dense_args.h"
#include "depthwise_common.cuh"
#include "ptx.cuh"

namespace pyphase::conv::cuda {

// Output tile of a warp: 32 pixels x 8 kNj channels; element e of acc[i][j] is at row
// 16 i + g + 8 (e >> 1), column 8 j + 2 q + (e & 1), lane = 4 g + q.
template <int kNj>
using DenseSums = float[2][kNj][4];

template <bool kFma>
inline constexpr int kDenseLaneRows = kFma ? 4 : 2;

// The row of the pass (0..127) that index i of a lane's rows stands for.
template <bool kFma>
__device__ __forceinline__ int dense_row(int i) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int first = (warp >> 1) * 32;
  if constexpr (kFma) {
    return first + i * 8 + (lane >> 2);
  } else {
    return first + i * 16 + (lane & 15);
  }
}

__device__ __forceinline__ std::uint32_t dense_round(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return to_tf32(value);
}

// acc += rows x columns over `bytes` of input channels. row[i]: the lane's pixels; weights: the
// rows of the pass's output channels, `pitch` bytes apart.
template <class T, bool kFma, int kNj>
__device__ __forceinline__ void dense_step(DenseSums<kNj> &acc, const char *const *row,
                                           const char *weights, int pitch, int bytes) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const char *columns = weights + (warp & 1) * (8 * kNj) * pitch;
  if constexpr (kFma) {
    const char *column = columns + 2 * (lane & 3) * pitch;
    for (int k = 0; k < bytes; k += 16) {
      float4 a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = load_vector<float4>(row[i] + k);
      }
#pragma unroll
      for (int j = 0; j < kNj; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const auto b = load_vector<float4>(column + (8 * j + e) * pitch + k);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float &sum = acc[i >> 1][j][2 * (i & 1) + e];
            sum = fmaf(a[i].x, b.x, sum);
            sum = fmaf(a[i].y, b.y, sum);
            sum = fmaf(a[i].z, b.z, sum);
            sum = fmaf(a[i].w, b.w, sum);
          }
        }
      }
    }
  } else {
    const int unit = PYPHASE_MUTANT == 22 ? (lane >> 4) ^ 1 : lane >> 4;
    const char *column = columns + ((lane >> 4) * 8 + (lane & 7)) * pitch + (lane >> 3 & 1) * 16;
    for (int k = 0; k < bytes; k += 32) {
      std::uint32_t a[2][4], b[kNj / 2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ldmatrix<4, false>(a[i], row[i] + unit * 16 + k);
      }
#pragma unroll
      for (int j = 0; j < kNj / 2; ++j) {
        ldmatrix<4, false>(b[j], column + 16 * j * pitch + k);
      }
      if constexpr (std::is_same_v<T, float>) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            a[i][r] = dense_round(a[i][r]);
          }
#pragma unroll
          for (int j = 0; j < kNj / 2; ++j) {
            b[j][r] = dense_round(b[j][r]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kNj; ++j) {
          const std::uint32_t pair[2] = {b[j >> 1][2 * (j & 1)], b[j >> 1][2 * (j & 1) + 1]};
          mma<T>(acc[i][j], a[i], pair);
        }
      }
    }
  }
}

// The pass. stage(chunk) starts to copy a chunk of the input into its buffer, or does
// nothing; address(i, chunk, tap) is the lane's i-th pixel in shared memory. Begins with a barrier:
// what the block wrote to shared memory before is seen, what it still reads is not overwritten.
template <class T, bool kFma, int kNj, class Stage, class Address>
__device__ __forceinline__ void dense_pass(DenseSums<kNj> &acc, const DenseWeights &weights,
                                           int output, char *ring, Stage stage, Address address) {
  constexpr int kColumns = 16 * kNj, kCount = 16 / static_cast<int>(sizeof(T));
  const int chunk_bytes = weights.chunk;
  const int pitch = dense_pitch(chunk_bytes), units = chunk_bytes / 16;
  const int elements = chunk_bytes / static_cast<int>(sizeof(T));
  const int steps = weights.inputs / elements * weights.taps;
  const auto *from = static_cast<const T *>(weights.packed);
  int next_chunk = 0, next_tap = 0, next_slot = 0;  // of the step to be copied
  const auto start_copy = [&](int step) {
    if (step < steps) {
      if (next_tap == 0) {
        stage(next_chunk);
      }
      char *to = ring + next_slot * kColumns * pitch;
      // Neighbouring threads copy neighbouring output channels: no bank twice.
      const std::int64_t unit0 =
          static_cast<std::int64_t>(next_tap) * (weights.inputs / kCount) + next_chunk * units;
      const T *source = from + (unit0 * weights.outputs + output) * kCount;
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < kColumns * units; i += kDenseThreads) {
        const int n = i % kColumns, unit = i / kColumns;
        copy_async<16>(to + n * pitch + unit * 16,
                       source + (static_cast<std::int64_t>(unit) * weights.outputs + n) * kCount,
                       true);
      }
      next_slot = next_slot + 1 == kDenseStages ? 0 : next_slot + 1;
      if (++next_tap == weights.taps) {
        next_tap = 0;
        ++next_chunk;
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kNj; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        acc[i][j][e] = 0;
      }
    }
  }
  if (PYPHASE_MUTANT != 21) {
    __syncthreads();
  }
#pragma unroll 1
  for (int step = 0; step < kDenseStages - 1; ++step) {
    start_copy(step);
  }
  int chunk = 0, tap = 0, slot = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (PYPHASE_MUTANT == 20) {
      wait_copies<kDenseStages - 1>();
    } else {
      wait_copies<kDenseStages - 2>();
    }
    if (PYPHASE_MUTANT != 25) {
      __syncthreads();
    }
    start_copy(step + kDenseStages - 1);
    const char *row[kDenseLaneRows<kFma>];
#pragma unroll
    for (int i = 0; i < kDenseLaneRows<kFma>; ++i) {
      row[i] = address(i, chunk, tap);
    }
    dense_step<T, kFma, kNj>(acc, row, ring + slot * kColumns * pitch, pitch, chunk_bytes);
    slot = slot + 1 == kDenseStages ? 0 : slot + 1;
    if (++tap == weights.taps) {
      tap = 0;
      ++chunk;
    }
  }
  wait_copies<0>();
}

// Calls use(row of the pass, column, first value, second value) for the lane's results, columns in
// pairs. A fourth of them at a time, the others moved up to its registers, which have no index:
// unrolled, four copies of `use` with its activations were most of a kernel's code, and spilled.
template <int kNj, class Use>
__device__ __forceinline__ void dense_results(DenseSums<kNj> &acc, Use use) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int first = (warp >> 1) * 32 + (lane >> 2);
#pragma unroll 1
  for (int row = 0; row < 32; row += 8) {
#pragma unroll
    for (int j = 0; j < kNj; ++j) {
      const int column = (warp & 1) * 8 * kNj + j * 8 + 2 * (lane & 3);
      use(first + row, column, acc[0][j][0], acc[0][j][1]);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        acc[0][j][e] = acc[0][j][2 + e];
        acc[0][j][2 + e] = acc[1][j][e];
        acc[1][j][e] = acc[1][j][2 + e];
      }
    }
  }
}

}  // namespace pyphase::conv::cuda
