// Copies of a tile of an image, a chunk of channels at a time, into rows of shared memory.
//
// Row of pixel (a, line): line * slots + (a % stride) * phase + a / stride. So the pixels that
// neighbouring outputs read through one tap are neighbours for any stride, and matrix loads meet no
// bank twice. slots = tile_a (mod 8): the next line goes on in the banks where this one ends.
#pragma once

#include "dense_gemm.cuh"

namespace pyphase::conv::cuda {

// Where a tile begins: image, first coordinates along a and b; and what it holds.
struct DenseTile {
  int image, a, b, step, count_a, lines;  // step: along b from line to line
  int stride, phase, slots;
};

// 16 bytes of channels from the pixel, gathered one by one; zeros beyond the channels.
template <class T>
__device__ __forceinline__ uint4 dense_gather(const DenseImage &x, const T *pixel, int channel,
                                              bool valid) {
  constexpr int kCount = 16 / sizeof(T);
  T value[kCount];
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    value[e] =
        valid && channel + e < x.channels ? pixel[(channel + e) * x.channel] : from_float<T>(0.0f);
  }
  uint4 words;
  memcpy(&words, value, sizeof(words));
  return words;
}

template <class T>
__device__ __forceinline__ void dense_stage(const DenseImage &x, const DenseTile &tile, int chunk,
                                            int chunk_bytes, bool a_contiguous, char *to) {
  constexpr int kCount = 16 / sizeof(T);
  const int units = chunk_bytes / 16, pitch = dense_pitch(chunk_bytes);
  const int pixels = tile.count_a * tile.lines;
  const T *image = static_cast<const T *>(x.data) + tile.image * x.image;
  const int items = (x.vectors ? (pixels + 7) / 8 * 8 : pixels) * units;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < items; i += kDenseThreads) {
    // Neighbouring threads read neighbours in memory: pixels along a row; where channels are moved
    // as vectors, a warp takes all units of eight pixels, and eight threads write one unit of each,
    // which are in different banks.
    const int unit = x.vectors ? i / 8 % units : i / pixels;
    const int pixel = x.vectors ? i / (8 * units) * 8 + i % 8 : i % pixels;
    if (pixel >= pixels) {
      continue;
    }
    const bool a_first = x.vectors || a_contiguous;
    const int line = a_first ? pixel / tile.count_a : pixel % tile.lines;
    const int a = a_first ? pixel % tile.count_a : pixel / tile.lines;
    const int at_a = tile.a + a, at_b = tile.b + line * tile.step;
    const int from_a = x.up_a == 1 ? at_a : at_a / x.up_a;
    const int from_b = x.up_b == 1 ? at_b : at_b / x.up_b;
    const int channel = chunk * units * kCount + unit * kCount;
    const bool inside = at_a >= 0 && at_b >= 0 && from_a < x.size_a && from_b < x.size_b &&
                        from_a * x.up_a == at_a && from_b * x.up_b == at_b;
    const int slot = tile.stride == 1 ? a : a % tile.stride * tile.phase + a / tile.stride;
    char *row = to + (line * tile.slots + slot) * pitch + unit * 16;
    const T *source = inside ? image + from_a * x.a + from_b * x.b : image;
    if (x.vectors) {
      const bool valid = inside && channel < x.channels;
      copy_async<16>(row, valid ? source + channel : image, valid || PYPHASE_MUTANT == 24);
    } else {
      store_vector(row, dense_gather(x, source, channel, inside));
    }
  }
}

}  // namespace pyphase::conv::cuda
