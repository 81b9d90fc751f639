// Depthwise pairs and sums of them, backward, for what depthwise_march_backward is not compiled
// for: all gradients, for any kernel, stride, dilation and padding, both orders, any number of
// strips.
//
// With h = conv(x, w1) + b1, a = act(h), y = conv(a, w2) + b2 and g the gradient of y:
//   grad_a[q] = sum over t of w2[t] * g[(q + pad2 - t * dilation2) / stride2]
//   grad_h = grad_a * act'(h)            grad_b1 = sum of grad_h        grad_b2 = sum of g
//   grad_x[c] = sum over t of w1[t] * grad_h[(c + pad1 - t * dilation1) / stride1]
//   grad_w1[t] = sum over m of grad_h[m] * x[m * stride1 + t * dilation1 - pad1]
//   grad_w2[t] = sum over q of a[q] * g[(q + pad2 - t * dilation2) / stride2]
// where a quotient that is not whole, or outside of the image, counts as zero.
//
// Layout: NCHW or NHWC, dense; float32, bfloat16, float16, summed in float32.
// Algorithm: a block owns some channels and a tile of x, and of each intermediate the part that
// belongs to that tile. It holds x and g with their halos in shared memory, and of one strip after
// another a and grad_h, which are computed again. The weights' sums of a block go to `partial`; a
// second kernel adds the blocks up in their order, so that the result is the same in every run.
// Memory: x and g once with the halos of the tiles, grad_x once, for all strips together; the sums
// of each block, written and read.
// Who wins it: not known. Executed functionally as PTX on a CPU interpreter; never run on a GPU.
#pragma once

#include "depthwise_tile.cuh"

namespace pyphase::conv::cuda {

constexpr int kTogether = 4;  // taps of a weight that are summed at a time

// Where things of one strip lie in the tiles: the pixel of x at place c along the first axis and q
// along the second is x + c * x_first + q * x_second, and so on; g at m along the first axis.
struct GradientPlaces {
  int x, x_first, x_second, g, g_first, g_second, hidden, hidden_first, hidden_second;

  __device__ __forceinline__ GradientPlaces(const GeneralArgs &a, const GradientTile &all,
                                            bool row_first, int mid_begin, int mid_width,
                                            int second_begin) {
    x = -(all.x_rows.begin * a.x_width + all.x_columns.begin);
    x_first = row_first ? 1 : a.x_width;
    x_second = row_first ? a.x_width : 1;
    g = -(all.g_rows.begin * a.g_width + all.g_columns.begin);
    g_first = row_first ? 1 : a.g_width;
    g_second = row_first ? a.g_width : 1;
    hidden_first = row_first ? 1 : mid_width;
    hidden_second = row_first ? mid_width : 1;
    hidden = -(mid_begin * hidden_first + second_begin * hidden_second);
  }
};

template <class T>
class Gradient {
 public:
  __device__ __forceinline__ Gradient(const GeneralArgs &args, float *shared)
      : a_(args),
        block_(args),
        rows_{block_.row, a_.tile_height},
        columns_{block_.column, a_.tile_width},
        all_(a_.strips[0], rows_, columns_) {
    for (int s = 1; s < a_.count; ++s) {
      all_.cover(GradientTile(a_.strips[s], rows_, columns_));
    }
    const int x_size = a_.x_height * a_.x_width, g_size = a_.g_height * a_.g_width;
    x_ = block_.tile(shared, x_size);
    g_ = block_.tile(x_.data + a_.planes * x_size, g_size);
    hidden_ = block_.tile(g_.data + a_.planes * g_size, a_.mid_size);
    grad_h_ = block_.tile(hidden_.data + a_.planes * a_.mid_size, a_.mid_size);
    out_ = block_.tile(grad_h_.data + a_.planes * a_.mid_size, a_.tile_height * a_.tile_width);
    weights_ = out_.data + (a_.count > 1 ? a_.planes * a_.tile_height * a_.tile_width : 0);
  }

  __device__ __forceinline__ void run() {
    block_.template fill<T>(x_, a_.x, a_.x_height, a_.x_width, all_.x_rows.begin,
                            all_.x_columns.begin, a_.height, a_.width);
    block_.template fill<T>(g_, a_.grad_y, a_.g_height, a_.g_width, all_.g_rows.begin,
                            all_.g_columns.begin, a_.out_height, a_.out_width);
    block_.template fill_weights<T>(weights_);
    int tap = 0;
    for (int s = 0; s < a_.count; ++s) {
      const GeneralStrip &strip = a_.strips[s];
      first_ = strip.first();
      second_ = strip.second();
      row_first_ = strip.row_first;
      mid_ = outputs_of(pick(row_first_, columns_, rows_), first_);
      own_ = own_outputs(pick(row_first_, columns_, rows_), first_);
      across_ = pick(row_first_, rows_, columns_);
      most_mid_ = row_first_ ? a_.out_width : a_.out_height;
      most_across_ = row_first_ ? a_.height : a_.width;
      const int mid_width = row_first_ ? mid_.count : a_.tile_width;
      const GradientPlaces places(a_, all_, row_first_, mid_.begin, mid_width, across_.begin);
      __syncthreads();
      differentiate(places, tap, mid_width);
      if (PYPHASE_MUTANT != 7) {
        __syncthreads();
      }
      if (a_.y) {
        add_grad_x(places, tap, s);
      }
      sum_weights(places, tap);
      tap += first_.kernel + second_.kernel + 2;
    }
  }

 private:
  __device__ __forceinline__ float weight(int tap, int plane) const {
    return weights_[tap * a_.planes + plane];
  }

  // body(tap, output) for the outputs that read place `at` of their input.
  template <class Body>
  __device__ __forceinline__ static void each_output(int at, const TapAxis &axis, Body body) {
    for (int t = 0; t < axis.kernel; ++t) {
      const int distance = at + axis.pad - t * axis.dilation;
      if (axis.stride == 1) {
        body(t, distance);
      } else {
        const int output = floor_to(distance, axis.stride);
        if (output * axis.stride == distance) {
          body(t, output);
        }
      }
    }
  }

  // a and grad_h of one strip, zero outside of the intermediate.
  __device__ __forceinline__ void differentiate(const GradientPlaces &p, int tap, int mid_width) {
    const int pixels = mid_.count * across_.count;
    const int bias = tap + first_.kernel + second_.kernel;
    for (int e = static_cast<int>(threadIdx.x); e < a_.planes * pixels;
         e += static_cast<int>(blockDim.x)) {
      const Item it = block_.item(e, pixels);
      const int i = it.pixel / mid_width, j = it.pixel % mid_width;
      const int m = mid_.begin + (row_first_ ? j : i), q = across_.begin + (row_first_ ? i : j);
      float hidden = 0, grad = 0;
      if (m >= 0 && m < most_mid_ && q < most_across_) {
        hidden = weight(bias, it.plane);
        const int x = p.x + (m * first_.stride - first_.pad) * p.x_first + q * p.x_second;
        for (int t = 0; t < first_.kernel; ++t) {
          const float at = x_.at(it.plane, x + t * first_.dilation * p.x_first);
          hidden = fmaf(weight(tap + t, it.plane), at, hidden);
        }
        const int g = p.g + m * p.g_first;
        each_output(q, second_, [&](int t, int o) {
          const float at = g_.at(it.plane, g + o * p.g_second);
          grad = fmaf(weight(tap + first_.kernel + t, it.plane), at, grad);
        });
        if (a_.activation != 0) {
          grad *= slope(a_.activation, hidden);
          hidden = activate(a_.activation, hidden);
        }
      }
      hidden_.at(it.plane, it.pixel) = hidden;
      grad_h_.at(it.plane, it.pixel) = grad;
    }
  }

  __device__ __forceinline__ void add_grad_x(const GradientPlaces &p, int tap, int index) {
    const int pixels = a_.tile_height * a_.tile_width;
    for (int e = static_cast<int>(threadIdx.x); e < a_.planes * pixels;
         e += static_cast<int>(blockDim.x)) {
      const Item it = block_.item(e, pixels);
      const int row = block_.row + it.pixel / a_.tile_width;
      const int column = block_.column + it.pixel % a_.tile_width;
      const int c = row_first_ ? column : row, q = row_first_ ? row : column;
      float sum = 0;
      if (index > 0) {
        sum = out_.at(it.plane, it.pixel);
      } else if (a_.residual) {
        sum = g_.at(it.plane, p.g + c * p.g_first + q * p.g_second);
      }
      const int hidden = p.hidden + q * p.hidden_second;
      each_output(c, first_, [&](int t, int m) {
        const float at = grad_h_.at(it.plane, hidden + m * p.hidden_first);
        sum = fmaf(weight(tap + t, it.plane), at, sum);
      });
      if (index + 1 < a_.count) {
        out_.at(it.plane, it.pixel) = sum;
      } else if (it.plane < block_.channels && row < a_.height && column < a_.width) {
        static_cast<T *>(a_.y)[block_.place(it.plane, row, column, a_.height, a_.width)] =
            from_float<T>(sum);
      }
    }
  }

  // Sums over the tile for each channel and a few taps: a warp at a time, its lanes over the pixels
  // of a channel, or in NHWC over the channels first.
  __device__ __forceinline__ void sum_weights(const GradientPlaces &p, int tap) {
    const int firsts = (first_.kernel + kTogether - 1) / kTogether;
    const int units = firsts + (second_.kernel + kTogether - 1) / kTogether + 2;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    const int together = a_.channels_last ? a_.planes : 1;  // channels of a warp
    const int lanes = 32 / together, start = lane / together;
    for (int i = warp; i < units * a_.planes / together; i += warps) {
      const int unit = i % units;
      const int plane = a_.channels_last ? lane % together : i / units;
      float sums[kTogether] = {};
      int from = tap, count = 1;
      if (unit < firsts) {
        const int t = unit * kTogether;
        from += t;
        count = first_.kernel - t < kTogether ? first_.kernel - t : kTogether;
        sum_first(p, t, plane, start, lanes, sums);
      } else if (unit < units - 2) {
        const int t = (unit - firsts) * kTogether;
        from += first_.kernel + t;
        count = second_.kernel - t < kTogether ? second_.kernel - t : kTogether;
        sum_second(p, t, plane, start, lanes, sums);
      } else {
        from += first_.kernel + second_.kernel + unit - (units - 2);
        sums[0] = unit == units - 2 ? sum_hidden(p, plane, start, lanes)
                                    : sum_output(p, plane, start, lanes);
      }
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        for (int distance = together; distance < 32; distance *= 2) {
          sums[u] += __shfl_xor_sync(0xffffffffu, sums[u], PYPHASE_MUTANT == 8 ? 1 : distance);
        }
        if (u < count && lane < together && plane < block_.channels) {
          const std::int64_t channel =
              static_cast<std::int64_t>(block_.slice) * a_.channels + block_.channel + plane;
          a_.partial[channel * a_.taps + from + u] = sums[u];
        }
      }
    }
  }

  // body(m, q) for pixels of two ranges, neighbours in memory first, every `lanes`th of them.
  template <class Body>
  __device__ __forceinline__ void each_pixel(const Range &first, const Range &second, int start,
                                             int lanes, Body body) const {
    const int width = row_first_ ? first.count : second.count;
    const int height = row_first_ ? second.count : first.count;
    int i = start / width, j = start % width;
    while (i < height) {
      body(first.begin + (row_first_ ? j : i), second.begin + (row_first_ ? i : j));
      j += lanes;
      while (j >= width) {
        j -= width;
        ++i;
      }
    }
  }

  // The pixels of the intermediate that are this tile's own: body(m, q).
  template <class Body>
  __device__ __forceinline__ void each_own(int start, int lanes, Body body) const {
    each_pixel(own_, across_, start, lanes, [&](int m, int q) {
      if (m < most_mid_ && q < most_across_) {
        body(m, q);
      }
    });
  }

  // Taps beyond the kernel are the last one again, and are not stored.
  __device__ __forceinline__ void sum_first(const GradientPlaces &p, int tap, int plane, int start,
                                            int lanes, float (&sums)[kTogether]) const {
    each_own(start, lanes, [&](int m, int q) {
      const float grad = grad_h_.at(plane, p.hidden + m * p.hidden_first + q * p.hidden_second);
      const int x = p.x + (m * first_.stride - first_.pad) * p.x_first + q * p.x_second;
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        const int t = tap + u < first_.kernel ? tap + u : first_.kernel - 1;
        sums[u] = fmaf(grad, x_.at(plane, x + t * first_.dilation * p.x_first), sums[u]);
      }
    });
  }

  __device__ __forceinline__ void sum_second(const GradientPlaces &p, int tap, int plane, int start,
                                             int lanes, float (&sums)[kTogether]) const {
    each_own(start, lanes, [&](int m, int q) {
      const float hidden = hidden_.at(plane, p.hidden + m * p.hidden_first + q * p.hidden_second);
      const int g = p.g + m * p.g_first;
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        const int t = tap + u < second_.kernel ? tap + u : second_.kernel - 1;
        const int distance = q + second_.pad - t * second_.dilation;
        int o = distance;
        if (second_.stride != 1) {
          o = floor_to(distance, second_.stride);
        }
        if (o * second_.stride == distance) {
          sums[u] = fmaf(hidden, g_.at(plane, g + o * p.g_second), sums[u]);
        }
      }
    });
  }

  __device__ __forceinline__ float sum_hidden(const GradientPlaces &p, int plane, int start,
                                              int lanes) const {
    float sum = 0;
    each_own(start, lanes, [&](int m, int q) {
      sum += grad_h_.at(plane, p.hidden + m * p.hidden_first + q * p.hidden_second);
    });
    return sum;
  }

  // The sum of g over the outputs that are this tile's own.
  __device__ __forceinline__ float sum_output(const GradientPlaces &p, int plane, int start,
                                              int lanes) const {
    float sum = 0;
    each_pixel(own_, own_outputs(across_, second_), start, lanes,
               [&](int m, int o) { sum += g_.at(plane, p.g + m * p.g_first + o * p.g_second); });
    return sum;
  }

  const GeneralArgs &a_;
  GeneralBlock block_;
  Range rows_, columns_;
  GradientTile all_;
  PlaneTile x_, g_, hidden_, grad_h_, out_;
  float *weights_;
  // Of the strip at hand: its own pixels, those with the halo, the tile along the second axis.
  TapAxis first_, second_;
  Range own_, mid_, across_;
  int row_first_, most_mid_, most_across_;
};

template <class T>
__global__ void __launch_bounds__(kGeneralThreads)
    depthwise_gradient(const __grid_constant__ GeneralArgs args) {
  PYPHASE_SHARED(float, shared);
  Gradient<T>(args, shared).run();
}

// One thread for each sum, over the slices in their order.
template <class T>
__global__ void __launch_bounds__(kGeneralThreads)
    depthwise_sum(const __grid_constant__ SumArgs args) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= args.channels * args.taps) {
    return;
  }
  float sum = 0;
  for (int slice = 0; slice < args.slices; ++slice) {
    sum += args.partial[static_cast<std::int64_t>(slice) * args.channels * args.taps + index];
  }
  const int channel = index / args.taps, tap = index % args.taps;
  for (int i = 0; i < args.count; ++i) {
    const SumArgs::Part &part = args.parts[i];
    const int at = tap - part.begin;
    if (part.to && at >= 0 && at < part.length) {
      static_cast<T *>(part.to)[channel * part.length + at] = from_float<T>(sum);
    }
  }
}

}  // namespace pyphase::conv::cuda
