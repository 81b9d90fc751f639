// A dense pair in one kernel: 1xk and kx1 in either order, the intermediate in shared memory.
//
// A block makes all channels of a tile of the output. It first makes the intermediate that the tile
// reads, tile_a pixels by the tile's lines and the halo of the second convolution, pass by pass
// (dense_gemm.cuh) from a staged tile of x, adds the bias, applies the activation, rounds to T and
// leaves it in shared memory; lines outside of the image are zero. The second convolution's passes
// then read it at line offsets. Layout and order are strides: the kernel is the same for NCHW and
// channels_last, rows first or columns first. Channels, pixels and tiles may be ragged.
//
// Memory: x with its halo along both axes once for each 64 channels of the intermediate, y once,
// the weights once a block (from L2); the intermediate never. Computed twice: the intermediate's
// halo, (k2 - 1) / tile_b of it. Where the second convolution is dilated, a tile's lines are `step`
// = dilation apart: they read the same lines as if it were not, and tap_lines, from one tap to the
// next, is 1. With a stride too, step is 1 and tap_lines the dilation.
//
// Expected to serve: few middle channels (low rank, stems) and widths to 128; wider ones where the
// plan's counts say so. Shared memory bounds it: the intermediate's tile must fit.
#pragma once

#include "dense_stage.cuh"

namespace pyphase::conv::cuda {

// The lane's pixels in a pass that begins at `line` of a tile of tile_a pixels a line.
template <bool kFma>
struct DenseLanes {
  int line[kDenseLaneRows<kFma>], a[kDenseLaneRows<kFma>];

  // Rows beyond the pass's pixels look at its first one: their results are not used.
  __device__ __forceinline__ DenseLanes(int tile_a, int lines) {
#pragma unroll
    for (int i = 0; i < kDenseLaneRows<kFma>; ++i) {
      const int row = dense_row<kFma>(i);
      const int at = row / tile_a;
      line[i] = at < lines ? at : 0;
      a[i] = at < lines ? row - at * tile_a : 0;
    }
  }
};

template <class T>
__device__ __forceinline__ void dense_store_pair(void *to, float first, float second) {
  const T pair[2] = {from_float<T>(first), from_float<T>(second)};
  if constexpr (sizeof(T) == 2) {
    std::uint32_t word;
    memcpy(&word, pair, sizeof(word));
    *static_cast<std::uint32_t *>(to) = word;
  } else {
    float2 words;
    memcpy(&words, pair, sizeof(words));
    store_vector(to, words);
  }
}

// The intermediate's lines [0, mid_lines) of a tile that begins at line `mid_b`.
template <class T, bool kFma, int kNj>
__device__ __forceinline__ void dense_first(const DensePairArgs &args, int image, int a, int mid_b,
                                            char *shared) {
  const DenseWeights &weights = args.first;
  const int pitch = dense_pitch(weights.chunk);
  const int buffer_bytes = args.lines * args.slots * pitch;
  const DenseLanes<kFma> lanes(args.tile_a, args.lines);
  const int lines = args.mid_lines - (PYPHASE_MUTANT == 23);
  for (int line = 0; line < lines; line += args.lines) {
    const int count = dense_least(args.lines, lines - line);
    const DenseTile tile{image,
                         a * args.stride_a - args.pad_a,
                         mid_b + line * args.step,
                         args.step,
                         args.reach,
                         count,
                         args.stride_a,
                         args.phase,
                         args.slots};
    for (int output = 0; output < weights.outputs; output += 16 * kNj) {
      DenseSums<kNj> acc;
      const auto buffer = [&](int chunk) {
        return shared + args.x_offset + chunk % args.buffers * buffer_bytes;
      };
      dense_pass<T, kFma, kNj>(
          acc, weights, output, shared + args.weight_offset,
          [&](int chunk) {
            dense_stage<T>(args.x, tile, chunk, weights.chunk, args.a_contiguous, buffer(chunk));
          },
          [&](int i, int chunk, int tap) {
            const int distance = tap * weights.dilation;
            const int move = args.stride_a == 1
                                 ? distance
                                 : distance % args.stride_a * args.phase + distance / args.stride_a;
            const int at = lanes.line[i] < count ? lanes.line[i] * args.slots + lanes.a[i] : 0;
            return buffer(chunk) + (at + move) * pitch;
          });
      dense_results<kNj>(acc, [&](int row, int column, float first, float second) {
        const int at = row / args.tile_a, channel = output + column;
        if (at >= count || channel >= args.second.inputs) {
          return;
        }
        const int b = mid_b + (line + at) * args.step, up = args.x.up_b;
        const bool valid = b >= 0 && b < args.mid_b * up && b % up == 0;
        float value[2] = {first, second};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float bias =
              channel + e < weights.channels ? load_one<T>(weights.bias, channel + e) : 0.0f;
          value[e] = valid ? activate(args.activation, value[e] + bias) : 0.0f;
        }
        dense_store_pair<T>(shared + (line * args.tile_a + row) * args.mid_pitch +
                                channel * static_cast<int>(sizeof(T)),
                            value[0], value[1]);
      });
    }
  }
}

template <class T>
__device__ __forceinline__ void dense_write(const DensePairArgs &args, T *pixel, int channel,
                                            float first, float second) {
  const DenseWeights &weights = args.second;
  const float value[2] = {first, second};
  if (args.y_pairs) {
    if (channel < weights.channels) {
      dense_store_pair<T>(pixel + channel, first + load_one<T>(weights.bias, channel),
                          second + load_one<T>(weights.bias, channel + 1));
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    if (channel + e < weights.channels) {
      pixel[(channel + e) * args.y_channel] =
          from_float<T>(value[e] + load_one<T>(weights.bias, channel + e));
    }
  }
}

// The output's tile at (a, b), from the intermediate in shared memory.
template <class T, bool kFma, int kNj>
__device__ __forceinline__ void dense_second(const DensePairArgs &args, int image, int a, int b,
                                             char *shared) {
  const DenseWeights &weights = args.second;
  const DenseLanes<kFma> lanes(args.tile_a, args.lines);
  T *y = static_cast<T *>(args.y) + image * args.y_image;
  const int rows = dense_least(args.tile_b, (args.out_b - b + args.step - 1) / args.step);
  for (int line = 0; line < rows; line += args.lines) {
    const int count = dense_least(args.lines, rows - line);
    for (int output = 0; output < weights.outputs; output += 16 * kNj) {
      DenseSums<kNj> acc;
      dense_pass<T, kFma, kNj>(
          acc, weights, output, shared + args.weight_offset, [](int) {},
          [&](int i, int chunk, int tap) {
            const int at = lanes.line[i] < count ? line + lanes.line[i] : line;
            const int row = (at * args.stride_b + tap * args.tap_lines) * args.tile_a + lanes.a[i];
            return shared + row * args.mid_pitch + chunk * weights.chunk;
          });
      dense_results<kNj>(acc, [&](int row, int column, float first, float second) {
        const int at = row / args.tile_a, along = row - at * args.tile_a;
        if (at < count && a + along < args.out_a) {
          dense_write<T>(args,
                         y + (a + along) * args.y_a + (b + (line + at) * args.step) * args.y_b,
                         output + column, first, second);
        }
      });
    }
  }
}

// The first line of the output of the i-th tile along b.
__device__ __forceinline__ int dense_line(const DensePairArgs &args, int i) {
  return i % args.step + i / args.step * args.tile_b * args.step;
}

// 128 registers a thread at most: two blocks an SM.
template <class T, bool kFma>
__global__ void __launch_bounds__(kDenseThreads, 2) dense_pair(const DensePairArgs args) {
  PYPHASE_SHARED(char, shared);
  const int tile = static_cast<int>(blockIdx.x) % (args.tiles_a * args.tiles_b);
  const int image = static_cast<int>(blockIdx.x) / (args.tiles_a * args.tiles_b);
  const int a = tile % args.tiles_a * args.tile_a, b = dense_line(args, tile / args.tiles_a);
  const int mid_b = b * args.stride_b - args.pad_b;
  if (args.first.outputs <= 32) {
    dense_first<T, kFma, 2>(args, image, a, mid_b, shared);
  } else {
    dense_first<T, kFma, 4>(args, image, a, mid_b, shared);
  }
  if (args.second.outputs <= 32) {
    dense_second<T, kFma, 2>(args, image, a, b, shared);
  } else {
    dense_second<T, kFma, 4>(args, image, a, b, shared);
  }
}

// Weights in the order of dense_pass, a thread for each element of `to`.
template <class T>
__global__ void __launch_bounds__(kDenseThreads) dense_pack(const DensePackArgs args) {
  const int per_tap = args.padded_outputs * args.padded_inputs;
  const int i = static_cast<int>(blockIdx.x) * kDenseThreads + static_cast<int>(threadIdx.x);
  if (i < args.taps * per_tap) {
    constexpr int kCount = 16 / static_cast<int>(sizeof(T));
    const int tap = i / per_tap, place = i % per_tap / kCount;
    const int output = place % args.padded_outputs;
    const int input = place / args.padded_outputs * kCount + i % kCount;
    T value = from_float<T>(0.0f);
    if (output < args.outputs && input < args.inputs) {
      const int from = args.flip ? (input * args.outputs + output) * args.taps + args.taps - 1 - tap
                                 : (output * args.inputs + input) * args.taps + tap;
      value = static_cast<const T *>(args.from)[from];
    }
    static_cast<T *>(args.to)[i] = value;
  }
}

}  // namespace pyphase::conv::cuda
