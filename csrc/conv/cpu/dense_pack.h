// Into and out of the order that the dense tiles read: weights by panels,
// images channels-last.
#pragma once

#include "dense_pass.h"
#include "dense_team.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

// Weights (out, in, tap) and their place in packed order, the bias behind them.
struct Packing {
  const float *weights;
  long out_step, in_step;  // in elements; taps are neighbours
  long taps, in, out;
  const float *bias;  // may be null
  float *packed;

  // Of a convolution's weights (out, in, taps), to be applied as they are or
  // transposed.
  static Packing forward(const float *weights, long out, long in, long taps, const float *bias) {
    return {weights, in * taps, taps, taps, in, out, bias, nullptr};
  }
  static Packing transposed(const float *weights, long out, long in, long taps) {
    return {weights, taps, in * taps, taps, out, in, nullptr, nullptr};
  }

  long weights_size() const { return align_floats(whole_vectors(out) * in * taps); }
  long size() const { return weights_size() + align_floats(whole_vectors(out)); }
  long panels() const { return (out + kPanel - 1) / kPanel; }
  Packed result() const { return {packed, packed + weights_size(), taps, in, out}; }
  void pack(long panel) const;
};

// Rows of pixels; their columns are neighbours when channels come first.
struct Window {
  long rows, columns, channels;
};

namespace detail {

// place(j)[i] = source[i * source_step + j] for i < lines and j < length.
template <class Place>
inline void transpose_block(const float *source, long source_step, long lines, long length,
                            const Place &place) {
  long i = 0;
  for (; i + kFloats <= lines; i += kFloats) {
    const float *from = source + i * source_step;
    long j = 0;
    for (; j + kFloats <= length; j += kFloats) {
      Vec<float> square[kFloats];
#pragma GCC unroll 16
      for (int k = 0; k < kFloats; ++k) {
        square[k] = load(from + k * source_step + j);
      }
      transpose<float>(square);
#pragma GCC unroll 16
      for (int k = 0; k < kFloats; ++k) {
        store(place(j + k) + i, square[k]);
      }
    }
    for (; j < length; ++j) {
      float *to = place(j) + i;
      for (int k = 0; k < kFloats; ++k) {
        to[k] = from[k * source_step + j];
      }
    }
  }
  for (; i < lines; ++i) {
    for (long j = 0; j < length; ++j) {
      place(j)[i] = source[i * source_step + j];
    }
  }
}

// The same for fewer columns than lanes: whole vectors are read where that
// stays before `end`.
template <class Place>
inline void transpose_narrow(const float *source, long lines, int columns, const float *end,
                             const Place &place) {
  long i = 0;
  for (; i + kFloats <= lines && source + (i + kFloats - 1) * columns + kFloats <= end;
       i += kFloats) {
    Vec<float> square[kFloats];
#pragma GCC unroll 16
    for (int k = 0; k < kFloats; ++k) {
      square[k] = load(source + (i + k) * columns);
    }
    transpose<float>(square);
#pragma GCC unroll 16
    for (int k = 0; k < kFloats; ++k) {
      if (k < columns) {
        store(place(k) + i, square[k]);
      }
    }
  }
  for (; i < lines; ++i) {
    for (int j = 0; j < columns; ++j) {
      place(j)[i] = source[i * columns + j];
    }
  }
}

}  // namespace detail

// One panel; lanes beyond the last channel are zero.
inline void Packing::pack(long panel) const {
  const long begin = panel * kPanel, lanes = std::min<long>(kPanel, out - begin);
  const long width = whole_vectors(lanes), tap_step = in * width;
  float *target = packed + begin * taps * in;
  const float *source = weights + begin * out_step, *end = weights + in * out * taps;
  if (lanes < width) {
    std::memset(target, 0, static_cast<std::size_t>(taps * tap_step) * sizeof(float));
  }
  if (in_step < out_step) {  // a row of the weights belongs to a lane
    const unsigned short_taps = static_cast<unsigned>(taps);
    detail::transpose_block(source, out_step, lanes, in * taps, [=](long j) {
      const unsigned i = static_cast<unsigned>(j) / short_taps;
      return target + static_cast<long>(static_cast<unsigned>(j) - i * short_taps) * tap_step +
             i * width;
    });
  } else {  // to an input channel
    for (long i = 0; i < in; ++i) {
      const float *from = source + i * in_step;
      float *to = target + i * width;
      const auto place = [=](long tap) { return to + tap * tap_step; };
      if (taps < kFloats) {
        detail::transpose_narrow(from, lanes, static_cast<int>(taps), end, place);
      } else {
        detail::transpose_block(from, taps, lanes, taps, place);
      }
    }
  }
  float *biases = packed + weights_size() + begin;
  for (long lane = 0; lane < width; ++lane) {
    biases[lane] = bias != nullptr && lane < lanes ? bias[begin + lane] : 0.0f;
  }
}

// Channels-first to channels-last: steps of `last` are from a row and from a
// column to the next.
inline void to_channels_last(const Window &window, const float *first, long channel_step,
                             long row_step, float *last, long last_row, long last_column) {
  const bool one_run = row_step == window.columns && last_row == window.columns * last_column;
  const long rows = one_run ? 1 : window.rows;
  const long columns = one_run ? window.rows * window.columns : window.columns;
  for (long row = 0; row < rows; ++row) {
    detail::transpose_block(first + row * row_step, channel_step, window.channels, columns,
                            [=](long j) { return last + row * last_row + j * last_column; });
  }
}

inline void to_channels_first(const Window &window, const float *last, long last_row,
                              long last_column, float *first, long channel_step, long row_step) {
  const bool one_run = row_step == window.columns && last_row == window.columns * last_column;
  const long rows = one_run ? 1 : window.rows;
  const long columns = one_run ? window.rows * window.columns : window.columns;
  for (long row = 0; row < rows; ++row) {
    detail::transpose_block(last + row * last_row, last_column, columns, window.channels,
                            [=](long j) { return first + row * row_step + j * channel_step; });
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
