// The backward pass of a depthwise pair: all gradients in one pass over x and the gradient of y.
//
// With h = conv(x, w1) + b1 along rows, a = act(h), y = conv(a, w2) + b2 along columns, and g the
// gradient of y, zero outside of it:
//   grad_a[q] = sum over t of w2[t] * g[q + pad2 - t * dilation2]      grad_b2 = sum of g
//   grad_w2[t] = sum over q of a[q] * g[q + pad2 - t * dilation2]      grad_h = grad_a * act'(h)
//   grad_x[c] = sum over t of w1[t] * grad_h[c + pad1 - t * dilation1] grad_b1 = sum of grad_h
//   grad_w1[t] = sum over c of grad_h[c] * x[c + t * dilation1 - pad1]
// Only g reaches over rows, so that a task keeps a ring of rows of g, and makes h, grad_h and
// grad_x for a few rows and channels at a time. A stride of y's is a g with zeros between its rows,
// one of h's a grad_h with zeros between its columns. A task is an image and some vectors of
// channels; sums over images are added up in their order.
#pragma once

#include "../kernels.h"
#include "../parallel.h"
#include "activation.h"
#include "correlate.h"
#include "depthwise_tiles.h"
#include "passes.h"
#include "tile.h"

namespace pyphase::conv::PYPHASE_ISA {

// Bytes that a task may hold. A ring may lie in L3, which costs less than to read a part of each
// pixel at a time.
constexpr std::int64_t kBackwardBytes = 2400 * 1024;

// Sizes that the tasks share.
template <class S>
struct BackwardTiles {
  using T = Compute<S>;
  static constexpr std::int64_t kWidth = kLanes<T>;

  const DepthwiseBackward &p;
  std::int64_t blocks, groups;     // vectors of channels in a task; tasks across the channels
  std::int64_t inner;              // vectors of channels at a time in all but the ring
  std::int64_t ring_pixel, pixel;  // elements from column to column, in the ring and elsewhere
  std::int64_t step, ring_rows;    // rows of h at a time; rows of g
  std::int64_t ahead;              // rows of g that may be read before they are needed
  std::int64_t x_before, x_width;  // padded rows of x: zeros before, pixels in all
  std::int64_t h_before, h_width;  // padded rows of grad_h
  std::int64_t g_before;           // rows of g before the first that h's row 0 needs
  std::int64_t x_pitch, h_pitch, a_pitch, ring_pitch, out_pitch;
  std::int64_t sums_size, weight_size, scratch_size, tasks, together;
  bool streams;  // grad_x is large and needs no conversion: written past the caches

  explicit BackwardTiles(const DepthwiseBackward &problem) : p(problem) {
    const Axis &first = p.first, &second = p.second;
    x_before = first.pad;
    x_width = larger((p.out_width - 1) * first.stride + first.reach(), p.width + first.pad);
    h_before = larger(first.reach() - 1 - first.pad, 0);
    h_width = h_before + larger((p.out_width - 1) * first.stride + 1, p.width + first.pad);
    g_before = second.reach() - 1 - second.pad;
    sums_size = (2 + first.kernel + second.kernel) * kWidth;
    weight_size = sums_size + first.kernel * kWidth;
    const std::int64_t vectors = (p.channels + kWidth - 1) / kWidth;
    choose_channels(vectors, takes_squares(p.in));
    streams = may_stream<S>(p, p.grad.x);
    tasks = p.batch * groups;
    together = tasks_together<S>(p, ring_pixel, tasks);
  }

 private:
  // NHWC: the channels in 256 bytes, which memory likes; fewer, if that gives more threads work, or
  // where a task would be too large. Then fewer rows at a time.
  void choose_channels(std::int64_t vectors, bool squares) {
    const std::int64_t bytes = kWidth * static_cast<std::int64_t>(sizeof(S));
    blocks = 2 * (p.in.channel == 1 ? smaller(vectors, larger(1, 256 / bytes)) : 1);
    do {
      blocks = (blocks + 1) / 2;
      groups = (vectors + blocks - 1) / blocks;
      inner = smaller(blocks, larger(1, 64 / bytes));
      choose_rows(squares ? larger(8, kWidth) : kOutputs, squares);
    } while (blocks > 1 && (is_large() || p.batch * groups < kTasks));
    if (is_large() && !squares) {
      choose_rows(8, false);
    }
  }

  bool is_large() const {
    return scratch_size * static_cast<std::int64_t>(sizeof(T)) > kBackwardBytes;
  }

  // Steps of nearly equal height, of at most `most` rows of h. A square of floats is transposed at
  // a time, so that g may be read ahead.
  void choose_rows(std::int64_t most, bool squares) {
    const std::int64_t steps = larger((p.height + most - 1) / most, 1);
    step = squares ? most : (p.height + steps - 1) / steps;
    ahead = squares ? step : 0;
    ring_pixel = blocks * kWidth;
    pixel = inner * kWidth;
    ring_rows = step + p.second.reach() - 1 + ahead;
    x_pitch = odd_lines<T>(x_width * pixel);
    h_pitch = odd_lines<T>(h_width * pixel);
    a_pitch = odd_lines<T>(p.out_width * pixel);
    ring_pitch = odd_lines<T>(p.out_width * ring_pixel);
    out_pitch = odd_lines<T>(p.width * pixel);
    const std::int64_t hidden = p.activation == Activation::none ? 1 : 2;
    const std::int64_t rows =
        step * (x_pitch + h_pitch + hidden * a_pitch + out_pitch) + ring_rows * ring_pitch;
    const std::int64_t spare =
        kBackwardBytes / static_cast<std::int64_t>(sizeof(T)) / larger(ring_pitch, 1) -
        rows / larger(ring_pitch, 1);
    const std::int64_t more = larger(smaller(spare, 2 * step + p.second.reach()), 0);
    ring_rows += more;  // a longer ring is moved less often
    scratch_size = rows + more * ring_pitch;
  }
};

template <class S>
class DepthwiseBackwardTask {
  using T = Compute<S>;
  using Tiles = BackwardTiles<S>;
  static constexpr std::int64_t kWidth = kLanes<T>;

 public:
  // `weights` as pack() lays them out; `sums` are this task's own.
  DepthwiseBackwardTask(const Tiles &tiles, const S *x, const S *grad_y, S *grad_x,
                        const T *weights, T *sums, std::int64_t index, T *memory)
      : t_(tiles), p_(tiles.p) {
    const std::int64_t image = index / t_.groups, group = index % t_.groups;
    const std::int64_t channel = group * t_.blocks * kWidth;
    channels_ = smaller(t_.blocks * kWidth, p_.channels - channel);
    blocks_ = (channels_ + kWidth - 1) / kWidth;
    x_ = x + image * p_.in.image + channel * p_.in.channel;
    grad_y_ = grad_y + image * p_.out.image + channel * p_.out.channel;
    grad_x_ = grad_x ? grad_x + image * p_.in.image + channel * p_.in.channel : nullptr;
    add_ = p_.add ? static_cast<const S *>(p_.add) + image * p_.in.image + channel * p_.in.channel
                  : nullptr;
    weights_ = weights + group * t_.blocks * t_.weight_size;
    sums_ = sums;
    x_rows_ = memory;
    h_rows_ = x_rows_ + t_.step * t_.x_pitch;
    a_rows_ = h_rows_ + t_.step * t_.h_pitch;
    slopes_ = a_rows_ + t_.step * t_.a_pitch;
    out_ = p_.activation == Activation::none ? slopes_ : slopes_ + t_.step * t_.a_pitch;
    ring_ = out_ + t_.step * t_.out_pitch;
  }

  void run() {
    set_zero(x_rows_, t_.step * (t_.x_pitch + t_.h_pitch));
    set_zero(sums_, t_.blocks * t_.sums_size);
    top_ = next_ = smaller(-t_.g_before, 0);
    consume(-t_.g_before);
    for (std::int64_t row = 0; row < p_.height; row += t_.step) {
      const std::int64_t rows = smaller(t_.step, p_.height - row);
      fill(row - t_.g_before, row + rows + p_.second.pad);
      for (std::int64_t first = 0; first < blocks_; first += t_.inner) {
        differentiate(first, smaller(t_.inner, blocks_ - first), row, rows);
      }
    }
    consume((p_.out_height - 1) * p_.second.stride + 1);
    if (t_.streams) {
      finish_streams();
    }
  }

 private:
  T *ring(std::int64_t row) const { return ring_ + (row - top_) * t_.ring_pitch; }

  // Brings the ring to hold rows [begin, end) of g, in steps of y's stride.
  void fill(std::int64_t begin, std::int64_t end) {
    if (end + t_.ahead - top_ > t_.ring_rows) {
      const std::int64_t kept = larger(next_ - begin, 0);
      T *to = ring(top_);
      if (kept > 0) {
        move(ring(begin), kept * t_.ring_pitch, to);
      }
      top_ = begin;
      next_ = larger(next_, begin);
    }
    const std::int64_t stride = p_.second.stride;
    while (next_ < end) {
      const bool inside = next_ >= 0 && next_ % stride == 0 && next_ / stride < p_.out_height;
      if (!inside) {
        set_zero(ring(next_), p_.out_width * t_.ring_pixel);
        ++next_;
        continue;
      }
      const std::int64_t row = next_ / stride;
      const std::int64_t most = t_.ahead > 0 ? t_.step : end - next_;
      const std::int64_t rows = stride == 1 ? smaller(most, p_.out_height - row) : 1;
      read_rows(row, rows);
      next_ += rows;
    }
  }

  void read_rows(std::int64_t row, std::int64_t rows) {
    gather(Window<const S>{grad_y_ + row * p_.out.row, p_.out, rows, p_.out_width, channels_},
           Tile<T>{ring(next_), t_.ring_pitch, t_.ring_pixel});
    for (std::int64_t block = 0; block < blocks_; ++block) {
      T *sum = sums_ + block * t_.sums_size;  // of b2
      Vec<T> total = load(sum);
      for (std::int64_t i = 0; i < rows; ++i) {
        const T *from = ring(next_ + i) + block * kWidth;
        Vec<T> part = {};
        for (std::int64_t j = 0; j < p_.out_width; ++j) {
          part += load(from + j * t_.ring_pixel);
        }
        total += part;
      }
      store(sum, total);
    }
  }

  // What rows [row, row + rows) of h and vectors [first, first + count) of channels take part in.
  void differentiate(std::int64_t first, std::int64_t count, std::int64_t row, std::int64_t rows) {
    const std::int64_t lane = first * kWidth;
    const std::int64_t offset = row * p_.in.row + lane * p_.in.channel;
    const std::int64_t channels = smaller(count * kWidth, channels_ - lane);
    gather(Window<const S>{x_ + offset, p_.in, rows, p_.width, channels},
           Tile<T>{x_rows_ + t_.x_before * t_.pixel, t_.x_pitch, t_.pixel});
    if (grad_x_ && add_) {
      gather(Window<const S>{add_ + offset, p_.in, rows, p_.width, channels},
             Tile<T>{out_, t_.out_pitch, t_.pixel});
    }
    make_hidden(first, count, rows, x_after(first + count, row, rows));
    for (std::int64_t block = 0; block < count; ++block) {
      differentiate_block(first + block, block * kWidth, row, rows);
    }
    if (grad_x_) {
      write(Window<S>{grad_x_ + offset, p_.in, rows, p_.width, channels});
    }
  }

  // The rows of x that are read next, from vector `first` of channels on.
  Window<const S> x_after(std::int64_t first, std::int64_t row, std::int64_t rows) const {
    if (first == blocks_) {
      first = 0;
      row += rows;
      rows = smaller(rows, p_.height - row);
    }
    return {x_ + row * p_.in.row + first * kWidth * p_.in.channel, p_.in, rows, p_.width, 0};
  }

  // Rows of g that are read next, to be asked for by vectors of channels.
  Window<const S> g_after(std::int64_t rows) const {
    const std::int64_t row = next_ / p_.second.stride;
    return {grad_y_ + row * p_.out.row, p_.out, larger(smaller(rows, p_.out_height - row), 0),
            p_.out_width, 0};
  }

  void write(const Window<S> &window) const {
    const Tile<const T> tile{out_, t_.out_pitch, t_.pixel};
    if constexpr (std::is_same_v<S, T>) {
      if (t_.streams) {
        return detail::stream_nhwc(window, tile);
      }
    }
    scatter(window, tile);
  }

  // a and the slopes of the activation, from the padded rows of x.
  void make_hidden(std::int64_t first, std::int64_t count, std::int64_t rows,
                   const Window<const S> &next) {
    const Axis &axis = p_.first;
    for (std::int64_t block = 0; block < count; ++block) {
      const T *weights = weights_ + (first + block) * t_.weight_size + kWidth;
      convolve(Pass<T>{x_rows_ + block * kWidth, t_.pixel, t_.x_pitch, a_rows_ + block * kWidth,
                       t_.pixel, t_.a_pitch, p_.out_width, rows, weights, weights + kWidth,
                       axis.kernel, axis.stride, axis.dilation, false,
                       lines_of(next, block * kWidth)});
    }
    for (std::int64_t i = 0; i < rows && p_.activation != Activation::none; ++i) {
      activate_row_with_slope(p_.activation, a_rows_ + i * t_.a_pitch, slopes_ + i * t_.a_pitch,
                              p_.out_width * t_.pixel);
    }
  }

  // One vector of channels, at `lane` in all but the ring.
  void differentiate_block(std::int64_t block, std::int64_t lane, std::int64_t row,
                           std::int64_t rows) {
    const Axis &first = p_.first, &second = p_.second;
    const T *weights = weights_ + block * t_.weight_size;
    T *sums = sums_ + block * t_.sums_size;
    const std::int64_t pixel = t_.pixel, ring_pixel = t_.ring_pixel, width = p_.out_width;
    const T *x = x_rows_ + lane, *g = ring(row - t_.g_before) + block * kWidth;
    T *a = a_rows_ + lane, *slope = slopes_ + lane, *grad_h = h_rows_ + lane;
    T *own_h = grad_h + t_.h_before * pixel;
    alignas(64) static constexpr T kZero[kWidth] = {};

    // The weights of w2 are packed in reverse, so that g is read forwards.
    convolve(Pass<T>{g, t_.ring_pitch, ring_pixel, own_h, t_.h_pitch, first.stride * pixel, rows,
                     width, kZero, weights + (2 + first.kernel) * kWidth, second.kernel, 1,
                     second.dilation, false, lines_of(g_after(rows), block * kWidth)});
    if (p_.grad.w2) {
      correlate(Correlation<T>{g, t_.ring_pitch, ring_pixel, a, t_.a_pitch, pixel, rows, width,
                               sums + (2 + first.kernel) * kWidth, second.kernel, second.dilation});
    }
    finish_grad_h(own_h, slope, rows, sums + kWidth);
    if (p_.grad.w1) {
      correlate(Correlation<T>{x, pixel, t_.x_pitch, own_h, pixel, t_.h_pitch,
                               (width - 1) * first.stride + 1, rows, sums + 2 * kWidth,
                               first.kernel, first.dilation});
    }
    if (grad_x_) {
      const T *from = grad_h + (t_.h_before - (first.reach() - 1 - first.pad)) * pixel;
      convolve(Pass<T>{from, pixel, t_.h_pitch, out_ + lane, pixel, t_.out_pitch, p_.width, rows,
                       kZero, weights + (2 + first.kernel + second.kernel) * kWidth, first.kernel,
                       1, first.dilation, add_ != nullptr});
    }
  }

  // grad_h from grad_a, and its sum.
  void finish_grad_h(T *grad_h, const T *slope, std::int64_t rows, T *sum) {
    const std::int64_t step = p_.first.stride * t_.pixel;
    const bool linear = p_.activation == Activation::none;
    Vec<T> total = load(sum);
    for (std::int64_t i = 0; i < rows; ++i) {
      T *row = grad_h + i * t_.h_pitch;
      Vec<T> part = {};
      for (std::int64_t j = 0; j < p_.out_width; ++j) {
        Vec<T> value = load(row + j * step);
        if (!linear) {
          value *= load(slope + i * t_.a_pitch + j * t_.pixel);
          store(row + j * step, value);
        }
        part += value;
      }
      total += part;
    }
    store(sum, total);
  }

  // Reads on to row `end` of g: rows that no row of h needs still count for b2.
  void consume(std::int64_t end) {
    while (next_ < end) {
      fill(next_, smaller(end, next_ + t_.step));
    }
  }

  const Tiles &t_;
  const DepthwiseBackward &p_;
  std::int64_t channels_, blocks_;
  const S *x_, *grad_y_, *add_;
  S *grad_x_;
  const T *weights_;
  T *sums_, *x_rows_, *h_rows_, *a_rows_, *slopes_, *out_, *ring_;
  std::int64_t top_ = 0, next_ = 0;
};

// For each vector of channels: a vector to spare and one of b1, as the sums have them; w1; w2 and
// w1 from the last tap to the first.
template <class S>
void pack(const BackwardTiles<S> &tiles, Compute<S> *out) {
  constexpr std::int64_t kWidth = BackwardTiles<S>::kWidth;
  const DepthwiseBackward &p = tiles.p;
  const std::int64_t k1 = p.first.kernel, k2 = p.second.kernel;
  set_zero(out, tiles.groups * tiles.blocks * tiles.weight_size);
  for (std::int64_t channel = 0; channel < p.channels; ++channel) {
    const auto value = [channel](const void *from, std::int64_t taps, std::int64_t tap) {
      return load_one(static_cast<const S *>(from) + channel * taps + tap);
    };
    auto *to = out + channel / kWidth * tiles.weight_size + channel % kWidth + kWidth;
    *to = p.bias1 ? value(p.bias1, 1, 0) : 0;
    for (std::int64_t t = 0; t < k1; ++t) {
      to[(1 + t) * kWidth] = value(p.weight1, k1, t);
      to[(k1 + k2 + k1 - t) * kWidth] = value(p.weight1, k1, t);
    }
    for (std::int64_t t = 0; t < k2; ++t) {
      to[(k1 + k2 - t) * kWidth] = value(p.weight2, k2, t);
    }
  }
}

// The tasks' sums, added up over the images in their order, to the gradients.
template <class S>
void reduce(const BackwardTiles<S> &tiles, Compute<S> *sums) {
  using T = Compute<S>;
  constexpr std::int64_t kWidth = kLanes<T>;
  const DepthwiseBackward &p = tiles.p;
  const std::int64_t k1 = p.first.kernel, k2 = p.second.kernel;
  const std::int64_t size = tiles.groups * tiles.blocks * tiles.sums_size;
  for (std::int64_t image = 1; image < p.batch; ++image) {
    for (std::int64_t i = 0; i < size; i += kWidth) {
      store(sums + i, load(sums + i) + load(sums + image * size + i));
    }
  }
  for (std::int64_t channel = 0; channel < p.channels; ++channel) {
    const T *from = sums + channel / kWidth * tiles.sums_size + channel % kWidth;
    const auto put = [channel](void *to, std::int64_t taps, std::int64_t tap, T value) {
      if (to) {
        store_one(static_cast<S *>(to) + channel * taps + tap, value);
      }
    };
    put(p.grad.b2, 1, 0, from[0]);
    put(p.grad.b1, 1, 0, from[kWidth]);
    for (std::int64_t t = 0; t < k1; ++t) {
      put(p.grad.w1, k1, t, from[(2 + t) * kWidth]);
    }
    for (std::int64_t t = 0; t < k2; ++t) {
      put(p.grad.w2, k2, k2 - 1 - t, from[(2 + k1 + t) * kWidth]);
    }
  }
}

template <class S>
void depthwise_backward_of(const DepthwiseBackward &problem, const void *x, const void *grad_y) {
  using T = Compute<S>;
  const BackwardTiles<S> tiles(problem);
  const std::int64_t weights_size = tiles.groups * tiles.blocks * tiles.weight_size;
  const std::int64_t sums_size = tiles.groups * tiles.blocks * tiles.sums_size;
  const std::int64_t size = weights_size + larger(problem.batch, 1) * sums_size;
  T *weights =
      static_cast<T *>(scratch(static_cast<std::size_t>(size) * sizeof(T), Scratch::shared));
  T *sums = weights + weights_size;
  pack(tiles, weights);
  set_zero(sums, sums_size);  // there may be no image
  const bool parallel = problem.batch * problem.channels * problem.height * problem.width *
                            (problem.first.kernel + problem.second.kernel) >
                        20000;
  for_each_task(
      tiles.tasks, tiles.together, static_cast<std::size_t>(tiles.scratch_size) * sizeof(T),
      parallel, [&](std::int64_t index, void *memory) {
        DepthwiseBackwardTask<S>(tiles, static_cast<const S *>(x), static_cast<const S *>(grad_y),
                                 static_cast<S *>(problem.grad.x), weights,
                                 sums + index * tiles.blocks * tiles.sums_size, index,
                                 static_cast<T *>(memory))
            .run();
      });
  reduce(tiles, sums);
}

inline void depthwise_backward(const DepthwiseBackward &problem, Scalar scalar, const void *x,
                               const void *grad_y) {
  switch (scalar) {
    case Scalar::f32:
      return depthwise_backward_of<float>(problem, x, grad_y);
    case Scalar::f64:
      return depthwise_backward_of<double>(problem, x, grad_y);
    case Scalar::bf16:
      return depthwise_backward_of<BFloat16>(problem, x, grad_y);
    case Scalar::f16:
      return depthwise_backward_of<Float16>(problem, x, grad_y);
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
