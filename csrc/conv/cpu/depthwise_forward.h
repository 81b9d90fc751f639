// Depthwise pairs, and sums of pairs, in one pass over the image.
//
// A task is one image, some channels and a range of columns. Rows of x are gathered into a padded
// row and convolved into a ring of intermediate rows, one ring a strip; the second convolution
// reads the ring, and its rows go out at once. So x is read once, y is written once, and the
// intermediate never leaves the cache.
//
// There are two kinds of tile. Interleaved, with a channel in each lane: any layout, stride and
// order. Planar, with neighbouring pixels of one channel in the lanes: for NCHW planes that are
// wide enough, whose rings are a vector's width smaller and stay in L1.
#pragma once

#include "../kernels.h"
#include "../parallel.h"
#include "activation.h"
#include "depthwise_tiles.h"
#include "passes.h"
#include "row_pass.h"
#include "tile.h"

namespace pyphase::conv::PYPHASE_ISA {

template <class S, bool kPlanar>
class DepthwiseForward {
  using T = Compute<S>;
  using Tiles = DepthwiseTiles<S, kPlanar>;
  static constexpr std::int64_t kWidth = kLanes<T>;

 public:
  DepthwiseForward(const Tiles &tiles, const S *x, S *y, const T *weights, std::int64_t index,
                   T *memory)
      : t_(tiles), p_(tiles.problem), part_(tiles.part(index)) {
    x_ = x + part_.image * p_.in.image + part_.channel * p_.in.channel;
    y_ = y + part_.image * p_.out.image + part_.channel * p_.out.channel;
    weights_ = weights + part_.channel / (kPlanar ? 1 : kWidth) * t_.weight_size;
    padded_ = memory;
    rings_ = padded_ + t_.padded_size;
    out_ = rings_ + p_.count * t_.ring_rows * t_.ring_pitch;
  }

  void run() {
    set_zero(padded_, t_.padded_size);
    top_ = next_ = -t_.down.before;
    for (std::int64_t row = 0; row < p_.out_height; row += t_.step) {
      const std::int64_t rows = smaller(t_.step, p_.out_height - row);
      fill(row * t_.row_stride - t_.down.before,
           (row + rows - 1) * t_.row_stride + t_.down.after + 1);
      emit(row, rows);
    }
    if (t_.streams) {
      finish_streams();
    }
  }

 private:
  T *ring(int strip, std::int64_t row) const {
    return rings_ + (strip * t_.ring_rows + row - top_) * t_.ring_pitch;
  }

  Window<const S> input(std::int64_t row, std::int64_t rows) const {
    return {x_ + row * p_.in.row + part_.first_pixel * p_.in.column, p_.in, rows, part_.pixels,
            part_.channels};
  }

  Window<S> output(std::int64_t row, std::int64_t rows, std::int64_t column,
                   std::int64_t columns) const {
    return {y_ + row * p_.out.row + (part_.column + column) * p_.out.column, p_.out, rows, columns,
            part_.channels};
  }

  // Brings the rings to hold intermediate rows [begin, end).
  void fill(std::int64_t begin, std::int64_t end) {
    if (end + t_.gathered - top_ > t_.ring_rows) {
      const std::int64_t kept = larger(next_ - begin, 0);
      for (int s = 0; s < p_.count && kept > 0; ++s) {
        T *to = ring(s, top_);
        move(ring(s, begin), kept * t_.ring_pitch, to);
      }
      top_ = begin;
      next_ = larger(next_, begin);
    }
    while (next_ < end) {
      if (next_ < 0 || next_ >= p_.height) {
        const std::int64_t until = next_ < 0 ? smaller(0, end) : end;
        for (int s = 0; s < p_.count; ++s) {
          set_zero(ring(s, next_), (until - next_) * t_.ring_pitch);
        }
        next_ = until;
      } else if (t_.straight) {
        const std::int64_t rows = smaller(end, p_.height) - next_;
        make_straight_rows(next_, rows);
        next_ += rows;
      } else {
        const std::int64_t rows = smaller(t_.gathered, p_.height - next_);
        const std::int64_t ahead = next_ + larger(kAhead, t_.gathered);
        Window<const S> soon = input(ahead, larger(smaller(rows, p_.height - ahead), 0));
        if (kPlanar || t_.stride != 1 || !is_run(soon)) {  // else asked for while sums are made
          prefetch<0, 2>(soon);
          soon.rows = 0;
        }
        t_.read(input(next_, rows), padded_ + part_.offset * t_.pixel);
        make_rows(next_, rows, soon);
        next_ += rows;
      }
    }
  }

  // Intermediate rows of all strips, from x itself.
  void make_straight_rows(std::int64_t row, std::int64_t rows) {
    if constexpr (kPlanar) {
      const S *from = x_ + row * p_.in.row + part_.column;
      const std::int64_t ahead = larger(kAhead * p_.in.row, kAheadPixels);
      const T *weights = weights_ + kWidth;
      for (int s = 0; s < p_.count; ++s) {
        const Axis &first = p_.strips[s].first;
        T *to = ring(s, row);
        straight_rows<S>(first.kernel, first.pad)(StraightRows<S>{
            from, to, p_.in.row, t_.ring_pitch, rows, part_.columns, p_.width - part_.column,
            part_.column, weights + kWidth, load(weights), ahead});
        activate(to, rows);
        weights += t_.strip_size(s);
      }
    }
  }

  // Intermediate rows of all strips from the padded ones; the first strip asks for what is read
  // next.
  void make_rows(std::int64_t row, std::int64_t rows, Window<const S> soon) {
    const T *weights = weights_ + kWidth;
    for (int s = 0; s < p_.count; ++s) {
      const Axis &first = p_.strips[s].first;
      T *to = ring(s, row);
      t_.convolve_first(part_, padded_ + (t_.across.before - first.pad) * t_.pixel, to, rows,
                        part_.columns, weights, first, soon);
      soon.rows = 0;
      activate(to, rows);
      weights += t_.strip_size(s);
    }
  }

  void activate(T *row, std::int64_t rows) const {
    for (std::int64_t i = 0; i < rows && p_.activation != Activation::none; ++i) {
      activate_row(p_.activation, row + i * t_.ring_pitch, t_.round_up(part_.columns));
    }
  }

  // Rows of y from the rings, some columns at a time.
  void emit(std::int64_t row, std::int64_t rows) {
    for (std::int64_t begin = 0; begin < part_.columns; begin += t_.out_columns) {
      const std::int64_t columns = smaller(t_.out_columns, part_.columns - begin);
      const Window<S> window = output(row, rows, begin, columns);
      if (!t_.streams) {  // planar: what follows, that is, in the end, the next plane
        prefetch<1, 3>(kPlanar ? output(row + t_.step, t_.step, begin, columns) : window);
      }
      if constexpr (kPlanar && std::is_same_v<S, T>) {
        // Straight to y; where the columns are no whole vectors, the last one overlaps.
        const std::int64_t whole = columns / kWidth;
        convolve_second(row, rows, begin, whole, window.data, p_.out.row, kWidth);
        if (columns % kWidth != 0) {
          const std::int64_t last = columns - kWidth;
          convolve_second(row, rows, begin + last, 1, window.data + last, p_.out.row, kWidth);
        }
      } else if (t_.direct) {
        write_directly(row, rows, begin, columns, window);
      } else {
        const std::int64_t pitch = t_.round_up(columns);
        convolve_second(row, rows, begin, kPlanar ? pitch / kWidth : columns, out_, pitch,
                        kPlanar ? kWidth : t_.pixel);
        t_.write(out_, pitch, window);
      }
    }
  }

  // Interleaved tiles whose scalars and channels are y's own.
  void write_directly(std::int64_t row, std::int64_t rows, std::int64_t begin, std::int64_t columns,
                      const Window<S> &window) {
    if constexpr (std::is_same_v<S, T>) {
      convolve_second(row, rows, begin, columns, window.data, p_.out.row, p_.out.column);
    }
  }

  // The sum of all strips' second convolutions, for columns from `begin`: `count` vectors of them
  // if planar, else `count` pixels.
  void convolve_second(std::int64_t row, std::int64_t rows, std::int64_t begin, std::int64_t count,
                       T *to, std::int64_t pitch, std::int64_t to_pixel) {
    for (std::int64_t block = 0; block < part_.blocks; ++block) {
      const T *weights = weights_ + block * t_.weight_size, *bias = weights;
      weights += kWidth;
      for (int s = 0; s < p_.count; ++s) {
        const Axis &second = p_.strips[s].second;
        const T *from = ring(s, row * t_.row_stride - second.pad) + begin * t_.pixel;
        convolve(Pass<T>{from + block * kWidth, t_.ring_pitch, kPlanar ? kWidth : t_.pixel,
                         to + block * kWidth, pitch, to_pixel, rows, count, bias,
                         weights + (1 + p_.strips[s].first.kernel) * kWidth, second.kernel,
                         second.stride, second.dilation, s > 0});
        weights += t_.strip_size(s);
      }
    }
  }

  const Tiles &t_;
  const Depthwise &p_;
  const typename Tiles::Part part_;
  const S *x_;
  S *y_;
  const T *weights_;
  T *padded_, *rings_, *out_;
  std::int64_t top_ = 0, next_ = 0;  // the row in the ring's first place; the next one to make
};

template <class S, bool kPlanar>
void depthwise_forward_with(const Depthwise &problem, const S *x, S *y) {
  using T = Compute<S>;
  const DepthwiseTiles<S, kPlanar> tiles(problem, y);
  T *weights = static_cast<T *>(
      scratch(static_cast<std::size_t>(tiles.pack_size) * sizeof(T), Scratch::shared));
  tiles.pack(weights);
  for_each_task(
      tiles.tasks, tiles.together, static_cast<std::size_t>(tiles.scratch_size) * sizeof(T),
      tiles.parallel, [&](std::int64_t index, void *memory) {
        DepthwiseForward<S, kPlanar>(tiles, x, y, weights, index, static_cast<T *>(memory)).run();
      });
}

template <class S>
void depthwise_forward_of(const Depthwise &problem, const void *x, void *y) {
  const S *from = static_cast<const S *>(x);
  S *to = static_cast<S *>(y);
  if (is_planar<S>(problem)) {
    depthwise_forward_with<S, true>(problem, from, to);
  } else {
    depthwise_forward_with<S, false>(problem, from, to);
  }
}

inline void depthwise_forward(const Depthwise &problem, Scalar scalar, const void *x, void *y) {
  switch (scalar) {
    case Scalar::f32:
      return depthwise_forward_of<float>(problem, x, y);
    case Scalar::f64:
      return depthwise_forward_of<double>(problem, x, y);
    case Scalar::bf16:
      return depthwise_forward_of<BFloat16>(problem, x, y);
    case Scalar::f16:
      return depthwise_forward_of<Float16>(problem, x, y);
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
