// One convolution over a rectangle of pixels, or its transpose, as tiles.
//
// Images are channels-last in here, with any strides between pixels. No image
// is padded: outputs that read the same taps form a class, and a class runs
// over its own taps alone.
#pragma once

#include <algorithm>
#include <utility>

#include "../problem.h"
#include "dense_tile.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

struct Range {
  long begin, end;
  long size() const { return end - begin; }
};

// Elements from a pixel to the next one: along the convolution's axis and
// across it.
struct Steps {
  long along, across;
};

// Taps first + j * tap_step of an output, j < count, read inputs start + j *
// input_step.
struct Taps {
  long first, count, start;
};

inline long ceil_div(long a, long b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
inline long floor_div(long a, long b) { return -ceil_div(-a, b); }

// Outputs with input o * stride + t * dilation - pad, clipped to the image.
struct Direct {
  Axis axis;
  long inputs;

  long period() const { return 1; }
  long tap_step() const { return 1; }
  long input_step() const { return axis.dilation; }
  Taps at(long o) const {
    const long origin = o * axis.stride - axis.pad;
    const long first = std::max(0L, ceil_div(-origin, axis.dilation));
    const long end = std::min<long>(axis.kernel, ceil_div(inputs - origin, axis.dilation));
    return {first, std::max(0L, end - first), origin + first * axis.dilation};
  }
};

// Its transpose: output o gets input i by tap t where o = i * stride + t *
// dilation - pad.
struct Transposed {
  Axis axis;
  long inputs;
  long common;  // greatest divisor of stride and dilation

  Transposed(const Axis &axis, long inputs)
      : axis(axis), inputs(inputs), common(divisor(axis.stride, axis.dilation)) {}

  static long divisor(long a, long b) { return b == 0 ? a : divisor(b, a % b); }
  long period() const { return axis.stride; }
  long tap_step() const { return axis.stride / common; }
  long input_step() const { return -axis.dilation / common; }
  Taps at(long o) const {
    const long origin = o + axis.pad;
    long first = 0;
    while (first < tap_step() && (origin - first * axis.dilation) % axis.stride != 0) {
      ++first;
    }
    if (first == tap_step()) {
      return {0, 0, 0};
    }
    const long step = -input_step();
    const long start = (origin - first * axis.dilation) / axis.stride;  // exact, may be negative
    const long skipped = std::max(0L, ceil_div(start - (inputs - 1), step));
    const long in_kernel = ceil_div(axis.kernel - first, tap_step());
    const long in_image = floor_div(start, step) + 1;
    return {first + skipped * tap_step(), std::max(0L, std::min(in_kernel, in_image) - skipped),
            start - skipped * step};
  }
};

// Packed weights of `out` channels by panels: [tap][in][lane] each, lanes in
// whole vectors.
struct Packed {
  const float *weights;
  const float *bias;
  long taps, in, out;

  long panels() const { return (out + kPanel - 1) / kPanel; }
};

inline long whole_vectors(long channels) { return (channels + kFloats - 1) / kFloats * kFloats; }

namespace detail {

template <int kVectors>
inline void convolve(int pixels, const ConvTile &tile, const float *const *in, float *const *out) {
  switch (pixels) {
    case 1:
      return dense::convolve<1, kVectors>(tile, in, out);
    case 2:
      return dense::convolve<2, kVectors>(tile, in, out);
    case 3:
      return dense::convolve<3, kVectors>(tile, in, out);
    case 4:
      return dense::convolve<4, kVectors>(tile, in, out);
    case 5:
      return dense::convolve<5, kVectors>(tile, in, out);
    default:
      return dense::convolve<6, kVectors>(tile, in, out);
  }
}

struct Grid {
  const float *in;
  float *out;
  long inner, outer;  // pixels
  long in_inner, in_outer, out_inner, out_outer;
};

// As many tiles as need be, all of nearly one size: 4 and 5 pixels still keep the units busy.
template <int kVectors>
inline void convolve(const ConvTile &tile, const Grid &grid) {
  const long pixels = grid.inner * grid.outer, tiles = ceil_div(pixels, kTilePixels);
  if (tiles == 0) {
    return;
  }
  const long least = pixels / tiles, larger = pixels - tiles * least;
  const float *in = grid.in;
  float *out = grid.out;
  long i = 0;
  for (long t = 0; t < tiles; ++t) {
    const int count = static_cast<int>(least + (t < larger ? 1 : 0));
    const float *from[kTilePixels];
    float *to[kTilePixels];
    if (i + kTilePixels <= grid.inner) {
      const float *first_in = in + i * grid.in_inner;
      float *first_out = out + i * grid.out_inner;
#pragma GCC unroll 8
      for (int r = 0; r < kTilePixels; ++r) {
        from[r] = first_in + r * grid.in_inner;
        to[r] = first_out + r * grid.out_inner;
      }
      i += count;
    } else {
      for (int r = 0; r < count; ++r) {
        if (i == grid.inner) {
          i = 0;
          in += grid.in_outer;
          out += grid.out_outer;
        }
        from[r] = in + i * grid.in_inner;
        to[r] = out + i * grid.out_inner;
        ++i;
      }
    }
    convolve<kVectors>(count, tile, from, to);
  }
}

}  // namespace detail

// Outputs `along` x `across` of one panel. `in` and `out` are at pixel (0, 0),
// which need not exist; the panel's first channel is written at `out`.
template <class Reach>
inline void convolve_panel(const Reach &reach, const Packed &packed, long panel, Finish finish,
                           const float *in, Steps in_steps, float *out, Steps out_steps,
                           Range along, Range across) {
  const long channel = panel * kPanel;
  const long lanes = std::min<long>(kPanel, packed.out - channel);
  const long width = whole_vectors(lanes);
  const float *weights = packed.weights + channel * packed.taps * packed.in;
  const long period = reach.period();
  for (long phase = 0; phase < period; ++phase) {
    for (long begin = along.begin + phase; begin < along.end;) {
      const Taps taps = reach.at(begin);
      long outputs = 1;
      for (;; ++outputs) {
        const long next = begin + outputs * period;
        if (next >= along.end) {
          break;
        }
        const Taps other = reach.at(next);
        if (other.first != taps.first || other.count != taps.count) {
          break;
        }
      }
      ConvTile tile;
      tile.weights = weights + taps.first * packed.in * width;
      tile.bias = packed.bias + channel;
      tile.taps = taps.count;
      tile.channels = packed.in;
      tile.input_step = reach.input_step() * in_steps.along;
      tile.weight_step = reach.tap_step() * packed.in * width;
      tile.lanes = static_cast<int>(lanes);
      tile.finish = finish;
      // One run, since few channels would not fill a loop; but not where that moves the borders of
      // partial sums: steps depend on the strip.
      if (tile.input_step == tile.channels && tile.weight_step == tile.channels * width &&
          tile.channels * tile.taps <= kProducts) {
        tile.channels *= tile.taps;
        tile.taps = 1;
      }
      const long next_start = outputs > 1 ? reach.at(begin + period).start : taps.start;
      const long in_along = (next_start - taps.start) * in_steps.along;
      detail::Grid grid;
      grid.in = in + taps.start * in_steps.along + across.begin * in_steps.across;
      grid.out = out + begin * out_steps.along + across.begin * out_steps.across;
      const bool along_inside = std::abs(in_along) < in_steps.across;
      grid.inner = along_inside ? outputs : across.size();
      grid.outer = along_inside ? across.size() : outputs;
      grid.in_inner = along_inside ? in_along : in_steps.across;
      grid.in_outer = along_inside ? in_steps.across : in_along;
      grid.out_inner = along_inside ? period * out_steps.along : out_steps.across;
      grid.out_outer = along_inside ? out_steps.across : period * out_steps.along;
      switch (width / kFloats) {
        case 1:
          detail::convolve<1>(tile, grid);
          break;
        case 2:
          detail::convolve<2>(tile, grid);
          break;
        default:
          if constexpr (kTileVectors > 2) {
            if (width / kFloats == 3) {
              detail::convolve<3>(tile, grid);
            } else {
              detail::convolve<4>(tile, grid);
            }
          }
      }
      begin += outputs * period;
    }
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
