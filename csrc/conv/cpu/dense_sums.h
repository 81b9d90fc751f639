// Sums over all pixels: the chunks that they are gathered in, and the gradients that these become.
#pragma once

#include "dense_gradient.h"
#include "dense_plan.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

// One chunk's sums, in floats.
struct Sums {
  long w1, w2, b1, b2;  // offsets
  long size;

  explicit Sums(const Pair &p) {
    const long lanes = whole_vectors(p.channels[1]);
    w1 = 0;
    w2 = w1 + align_floats(first_axis(p).kernel * p.channels[0] * lanes);
    b1 = w2 + align_floats(second_axis(p).kernel * p.channels[2] * lanes);
    b2 = b1 + align_floats(lanes);
    size = b2 + align_floats(whole_vectors(p.channels[2]));
  }
};

namespace detail {

// The share of some lines of grad_y in the second bias's gradient.
inline void sum_grad_y(const Pair &p, const float *grad_y, long image, Range b, float *sums) {
  const Extents extents(p);
  const Image layout = Image::of(p, p.channels[2], p.out_height, p.out_width);
  const Window all = window(p, extents.mid_a, b.size(), p.channels[2]);
  const float *start = grad_y + image * layout.batch + b.begin * layout.b;
  for (long row = 0; row < all.rows; ++row) {
    const float *line = start + row * layout.row;
    if (p.channels_last) {
      const long whole = p.channels[2] / kFloats * kFloats;
      add_pixels(line, all.columns, layout.column, whole, sums);
      for (long c = whole; c < p.channels[2]; ++c) {
        float sum = 0;
        for (long i = 0; i < all.columns; ++i) {
          sum += line[i * layout.column + c];
        }
        sums[c] += sum;
      }
    } else {
      for (long c = 0; c < p.channels[2]; ++c) {
        const float *from = line + c * layout.channel;
        Vec<float> partial = {};
        long i = 0;
        for (; i + kFloats <= all.columns; i += kFloats) {
          partial += load(from + i);
        }
        float sum = 0;
        for (int lane = 0; lane < kFloats; ++lane) {
          sum += partial[lane];
        }
        for (; i < all.columns; ++i) {
          sum += from[i];
        }
        sums[c] += sum;
      }
    }
  }
}

// The chunks' sums [tap][row][lane] of a convolution's weights, and where their total goes.
struct Reduction {
  const float *sums;
  long chunks, chunk_step;
  long rows, taps, channels;
  float *gradient;
  long row_step, lane_step;  // one of them is `taps`: what is written next lies behind

  Vec<float> total(long tap, long row, long lane) const {
    const float *from = sums + (tap * rows + row) * whole_vectors(channels) + lane;
    Vec<float> sum = load(from);
    for (long chunk = 1; chunk < chunks; ++chunk) {
      sum += load(from + chunk * chunk_step);
    }
    return sum;
  }

  // Lanes [lane, lane + kFloats) of a row. A vector of taps spills into its neighbours, which are
  // written after it, where there are enough of them: `rows_left` of this task or lanes.
  void write(long row, long lane, long rows_left) const {
    const long lanes = std::min<long>(kFloats, channels - lane);
    float *target = gradient + row * row_step + lane * lane_step;
    if (taps <= kFloats) {
      Vec<float> square[kFloats] = {};
#pragma GCC unroll 16
      for (int tap = 0; tap < kFloats; ++tap) {
        if (tap < taps) {
          square[tap] = total(tap, row, lane);
        }
      }
      transpose<float>(square);
      for (long i = 0; i < lanes; ++i) {
        const long left = row_step == taps ? rows_left : channels - lane - i;
        if (left * taps >= kFloats) {
          store(target + i * lane_step, square[i]);
        } else {
          std::memcpy(target + i * lane_step, square + i,
                      static_cast<std::size_t>(taps) * sizeof(float));
        }
      }
      return;
    }
    for (long tap = 0; tap < taps; ++tap) {
      const Vec<float> sum = total(tap, row, lane);
      for (long i = 0; i < lanes; ++i) {
        target[i * lane_step + tap] = sum[i];
      }
    }
  }

  static constexpr long kRows = 16;  // of a task
  long tasks() const { return ceil_div(rows, kRows); }
  void run(long task) const {
    const Range range{task * kRows, std::min(rows, task * kRows + kRows)};
    for (long lane = 0; lane < channels; lane += kFloats) {
      for (long row = range.begin; row < range.end; ++row) {
        write(row, lane, range.end - row);
      }
    }
  }
};

inline void reduce_bias(const float *sums, long chunks, long chunk_step, long channels,
                        float *gradient) {
  for (long c = 0; c < channels; ++c) {
    float sum = 0;
    for (long chunk = 0; chunk < chunks; ++chunk) {
      sum += sums[chunk * chunk_step + c];
    }
    gradient[c] = sum;
  }
}

}  // namespace detail

}  // namespace pyphase::conv::PYPHASE_ISA::dense
