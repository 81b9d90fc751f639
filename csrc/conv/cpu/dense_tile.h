// The two innermost kernels of the dense pair: a tile of a convolution and one
// of its weight's gradient.
//
// Both keep kPixels x kVectors sums in registers and feed each pair of loads
// (one element to all lanes, one vector) to one fma. With 16 registers 6 x 2
// sums, 2 vectors and one element fill 15: 8 loads then serve 12 fmas, and 12
// chains cover the fma's latency of 4 on 2 units. With 32 registers 6 x 4 sums
// fill 29.
#pragma once

#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

constexpr int kTilePixels = 6;
constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;
// Summed in registers, before they go to a longer sum: rounding. With 64-byte vectors torch's sums
// are as short.
constexpr long kProducts = kVectorBytes == 64 ? 64 : 128;
constexpr int kPanel = kTileVectors * kFloats;  // output channels that are computed at a time

// What becomes of sums: a ReLU first, or not; written past the caches, or not.
struct Finish {
  bool relu = false, stream = false;
};

// Weights of a panel are [tap][input channel][lane].
struct ConvTile {
  const float *weights;
  const float *bias;  // padded to the panel
  long taps, channels;
  long input_step, weight_step;  // in elements, from a tap to the next one
  int lanes;                     // to be stored
  Finish finish;
};

// A copy of the sums is addressed, so that they themselves stay in registers.
template <int kVectors>
PYPHASE_INLINE void store_lanes(float *out, const Vec<float> *sum, int lanes) {
  float copy[kVectors * kFloats];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    store(copy + v * kFloats, sum[v]);
  }
  std::memcpy(out, copy, static_cast<std::size_t>(lanes) * sizeof(float));
}

// Pixel r of the tile is read at in[r] and written at out[r].
template <int kPixels, int kVectors>
inline __attribute__((noinline)) void convolve(const ConvTile &tile, const float *const *in,
                                               float *const *out) {
  Vec<float> sum[kPixels][kVectors];
  const float *x[kPixels];
#pragma GCC unroll 8
  for (int r = 0; r < kPixels; ++r) {
    x[r] = in[r];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = load(tile.bias + v * kFloats);
    }
  }
  float total[kPixels * kVectors * kFloats];
  bool summed = false;
  long products = 0;
  const float *taps_weights = tile.weights;
  for (long tap = 0; tap < tile.taps; ++tap) {
    const float *w = taps_weights;
    for (long begin = 0; begin < tile.channels; begin += kProducts) {
      if (products >= kProducts) {
#pragma GCC unroll 8
        for (int r = 0; r < kPixels; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            float *t = total + (r * kVectors + v) * kFloats;
            store<float>(t, summed ? load(t) + sum[r][v] : sum[r][v]);
            sum[r][v] = Vec<float>{};
          }
        }
        summed = true;
        products = 0;
      }
      const long end = begin + kProducts < tile.channels ? begin + kProducts : tile.channels;
      products += end - begin;
#pragma GCC unroll 4
      for (long c = begin; c < end; ++c) {
        Vec<float> weight[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          weight[v] = load(w + v * kFloats);
        }
        w += kVectors * kFloats;
#pragma GCC unroll 8
        for (int r = 0; r < kPixels; ++r) {
          const Vec<float> element = broadcast(x[r][c]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            sum[r][v] = fma<float>(element, weight[v], sum[r][v]);
          }
        }
      }
    }
    taps_weights += tile.weight_step;
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
      x[r] += tile.input_step;
    }
  }
  if (summed) {
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] += load(total + (r * kVectors + v) * kFloats);
      }
    }
  }
  if (tile.finish.relu) {
    const Vec<float> zero = {};
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = zero > sum[r][v] ? zero : sum[r][v];
      }
    }
  }
  if (tile.finish.stream) {
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        stream(out[r] + v * kFloats, sum[r][v]);
      }
    }
  } else if (tile.lanes == kVectors * kFloats) {
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        store(out[r] + v * kFloats, sum[r][v]);
      }
    }
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < kPixels; ++r) {
      store_lanes<kVectors>(out[r], sum[r], tile.lanes);
    }
  }
}

// Two images over which a product is summed: `rows` elements of the one by a panel of the other.
struct ProductTile {
  const float *rows, *panel;
  long count, rows_step, panel_step;      // pixels in a line
  long lines, rows_stride, panel_stride;  // from a line to the next one
  float *sums;                            // [row][sums_stride]
  long sums_stride;
  bool add;  // to the sums that are there
};

template <int kRows, int kVectors>
inline __attribute__((noinline)) void multiply(const ProductTile &tile) {
  Vec<float> sum[kRows][kVectors] = {};
  for (long line = 0; line < tile.lines; ++line) {
    const float *a = tile.rows + line * tile.rows_stride;
    const float *b = tile.panel + line * tile.panel_stride;
#pragma GCC unroll 4
    for (long i = 0; i < tile.count; ++i) {
      Vec<float> vector[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        vector[v] = load(b + v * kFloats);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec<float> element = broadcast(a[r]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] = fma<float>(element, vector[v], sum[r][v]);
        }
      }
      a += tile.rows_step;
      b += tile.panel_step;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float *p = tile.sums + r * tile.sums_stride + v * kFloats;
      store<float>(p, tile.add ? load(p) + sum[r][v] : sum[r][v]);
    }
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
