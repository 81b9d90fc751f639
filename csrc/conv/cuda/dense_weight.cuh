// The gradients of a dense convolution's weights and bias: products of two images, summed over
// pixels.
//
// A block takes one tap, 64 channels of either image and a part of the pixels, fixed by the plan,
// and leaves 64 x 64 sums in the workspace; dense_reduce adds the parts in their order. No atomics:
// the same bits in every run. Steps of 32 pixels come through a ring of three stages. Pixels lie in
// shared memory as rows of channels, and both operands are wanted channel by pixel: 16-bit types
// are transposed by ldmatrix, floats are read one by one, rows 8 banks apart.
//
// The taps' blocks read the same pixels, from L2: 128 channels a pixel for 4096 multiply-adds, 16
// of 16 bits for each byte, 8 for each byte in float32, where FMA takes 6 loads from shared memory
// for 16 multiply-adds a lane.
#pragma once

#include "dense_stage.cuh"

namespace pyphase::conv::cuda {

template <class T>
inline constexpr int kDenseTilePitch =
    kDenseTile * static_cast<int>(sizeof(T)) + (sizeof(T) == 2 ? 16 : 32);  // bytes

template <class T>
inline constexpr int kDenseOperandBytes = kDensePixels * kDenseTilePitch<T>;

// A step's pixels of 64 channels. Pixels beyond the part's end and outside of the image are zero.
template <class T>
__device__ __forceinline__ void dense_operand(const DenseOperand &from, const DenseWeightArgs &args,
                                              int channel0, int first, int end, int stride,
                                              int offset, char *to) {
  constexpr int kCount = 16 / sizeof(T), kUnits = kDenseTile / kCount;
  for (int i = static_cast<int>(threadIdx.x); i < kDensePixels * kUnits; i += kDenseThreads) {
    const int unit = from.vectors ? i % kUnits : i / kDensePixels;
    const int row = from.vectors ? i / kUnits : i % kDensePixels;
    const int pixel = first + row, channel = channel0 + unit * kCount;
    const int per_image = args.pixels_u * args.pixels_v;
    const int image = pixel / per_image, at = pixel % per_image;
    const int u = args.u_contiguous ? at % args.pixels_u : at / args.pixels_v;
    const int v = args.u_contiguous ? at / args.pixels_u : at % args.pixels_v;
    const int from_u = u * stride + offset;
    const bool inside = pixel < end && from_u >= 0 && from_u < from.size_u;
    const T *base = static_cast<const T *>(from.data);
    const T *source = inside ? base + image * from.image + from_u * from.u + v * from.v : base;
    char *place = to + row * kDenseTilePitch<T> + unit * 16;
    if (from.vectors) {
      const bool valid = inside && channel < from.channels;
      copy_async<16>(place, valid ? source + channel : base, valid);
    } else {
      const DenseImage image_of{nullptr, 0, from.channels, from.channel, 0, 0, 0, 0, 1, 1, 0};
      store_vector(place, dense_gather(image_of, source, channel, inside));
    }
  }
}

// acc += P^T Q over a step; a warp has 16 channels of P and 32 of Q, laid out as in dense_pass.
template <class T, bool kFma>
__device__ __forceinline__ void dense_weight_step(float (&acc)[4][4], const char *p,
                                                  const char *q) {
  constexpr int kPitch = kDenseTilePitch<T>;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int p0 = (warp >> 1) * 16, q0 = (warp & 1) * 32, g = lane >> 2, k0 = lane & 3;
  if constexpr (sizeof(T) == 2) {
    const char *rows = p + ((lane >> 4) * 8 + (lane & 7)) * kPitch + (p0 + (lane >> 3 & 1) * 8) * 2;
    const char *columns = q + (lane & 15) * kPitch + (q0 + (lane >> 4) * 8) * 2;
#pragma unroll
    for (int k = 0; k < kDensePixels; k += 16) {
      std::uint32_t a[4], b[2][4];
      ldmatrix<4, true>(a, rows + k * kPitch);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        ldmatrix<4, true>(b[j], columns + k * kPitch + j * 32);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t pair[2] = {b[j >> 1][2 * (j & 1)], b[j >> 1][2 * (j & 1) + 1]};
        mma<T>(acc[j], a, pair);
      }
    }
  } else if constexpr (!kFma) {
    const auto word = [&](const char *tile, int pixel, int channel) {
      return to_tf32(reinterpret_cast<const float *>(tile + pixel * kPitch)[channel]);
    };
#pragma unroll
    for (int k = 0; k < kDensePixels; k += 8) {
      std::uint32_t a[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        a[r] = word(p, k + k0 + 4 * (r >> 1), p0 + g + 8 * (r & 1));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t b[2] = {word(q, k + k0, q0 + 8 * j + g),
                                    word(q, k + k0 + 4, q0 + 8 * j + g)};
        mma<T>(acc[j], a, b);
      }
    }
  } else {
#pragma unroll 4
    for (int k = 0; k < kDensePixels; ++k) {
      const float *row = reinterpret_cast<const float *>(p + k * kPitch) + p0 + g;
      const float a[2] = {row[0], row[8]};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const auto b = load_vector<float2>(q + k * kPitch + (q0 + 8 * j + 2 * k0) * 4);
        acc[j][0] = fmaf(a[0], b.x, acc[j][0]);
        acc[j][1] = fmaf(a[0], b.y, acc[j][1]);
        acc[j][2] = fmaf(a[1], b.x, acc[j][2]);
        acc[j][3] = fmaf(a[1], b.y, acc[j][3]);
      }
    }
  }
}

template <class T, bool kFma>
__global__ void __launch_bounds__(kDenseThreads, 2) dense_weight(const DenseWeightArgs args) {
  PYPHASE_SHARED(char, shared);
  constexpr int kBytes = kDenseOperandBytes<T>;
  int block = static_cast<int>(blockIdx.x);
  const int q_tile = block % args.q_tiles;
  block /= args.q_tiles;
  const int p_tile = block % args.p_tiles;
  block /= args.p_tiles;
  const int tap = block % args.taps, part = block / args.taps;
  const int begin = part * args.part, end = dense_least(begin + args.part, args.pixels);
  const int steps = (end - begin + kDensePixels - 1) / kDensePixels;
  const auto start_copy = [&](int step) {
    if (step < steps) {
      char *to = shared + step % kDenseStages * 2 * kBytes;
      const int first = begin + step * kDensePixels;
      dense_operand<T>(args.p, args, p_tile * kDenseTile, first, end, 1, 0, to);
      dense_operand<T>(args.q, args, q_tile * kDenseTile, first, end, args.stride,
                       tap * args.dilation - args.pad, to + kBytes);
    }
    commit_copies();
  };
  float acc[4][4] = {};
  float sum = 0;
  const bool is_bias = tap == 0 && q_tile == 0 && static_cast<int>(threadIdx.x) < kDenseTile;
  for (int step = 0; step < kDenseStages - 1; ++step) {
    start_copy(step);
  }
  for (int step = 0; step < steps; ++step) {
    if (PYPHASE_MUTANT == 26) {
      wait_copies<kDenseStages - 1>();
    } else {
      wait_copies<kDenseStages - 2>();
    }
    if (PYPHASE_MUTANT != 27) {
      __syncthreads();
    }
    start_copy(step + kDenseStages - 1);
    const char *p = shared + step % kDenseStages * 2 * kBytes;
    dense_weight_step<T, kFma>(acc, p, p + kBytes);
    if (is_bias) {
      for (int k = 0; k < kDensePixels; ++k) {
        sum += to_float(reinterpret_cast<const T *>(p + k * kDenseTilePitch<T>)[threadIdx.x]);
      }
    }
  }
  wait_copies<0>();
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int padded_p = args.p_tiles * kDenseTile, padded_q = args.q_tiles * kDenseTile;
  float *to =
      args.partial + static_cast<std::int64_t>(part * args.taps + tap) * padded_p * padded_q;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = p_tile * kDenseTile + (warp >> 1) * 16 + 8 * half + (lane >> 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = q_tile * kDenseTile + (warp & 1) * 32 + 8 * j + 2 * (lane & 3);
      store_vector(to + static_cast<std::int64_t>(row) * padded_q + column,
                   float2{acc[j][2 * half], acc[j][2 * half + 1]});
    }
  }
  if (is_bias) {
    args.bias[part * padded_p + p_tile * kDenseTile + static_cast<int>(threadIdx.x)] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kDenseThreads) dense_reduce(const DenseReduceArgs args) {
  const int i = static_cast<int>(blockIdx.x) * kDenseThreads + static_cast<int>(threadIdx.x);
  const int weights = args.p * args.q * args.taps;
  float sum = 0;
  if (i < weights && args.to) {
    const int tap = i / (args.p * args.q), p = i / args.q % args.p, q = i % args.q;
    const std::int64_t size = static_cast<std::int64_t>(args.padded_p) * args.padded_q;
    for (int part = 0; part < args.parts; ++part) {
      sum += args.partial[(static_cast<std::int64_t>(part) * args.taps + tap) * size +
                          static_cast<std::int64_t>(p) * args.padded_q + q];
    }
    static_cast<T *>(args.to)[(p * args.q + q) * args.taps + tap] = from_float<T>(sum);
  }
  if (i >= weights && i < weights + args.p && args.bias) {
    for (int part = 0; part < args.parts; ++part) {
      sum += args.partial_bias[part * args.padded_p + i - weights];
    }
    static_cast<T *>(args.bias)[i - weights] = from_float<T>(sum);
  }
}

}  // namespace pyphase::conv::cuda
