// Depthwise pairs and sums of them, backward: all gradients from one reading of x and of the
// gradient of y. Any kernel, stride, dilation and padding, both orders, any number of strips.
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
// Who wins it: nobody has timed it on a GPU.
#pragma once

#include "depthwise_tile.cuh"

namespace pyphase::conv::cuda {

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
      const GradientTile tile(strip, rows_, columns_);
      mid_ = tile.mid;
      own_ = own_outputs(pick(strip.row_first, columns_, rows_), strip.first());
      mid_width_ = strip.row_first ? mid_.count : a_.tile_width;
      mid_pixels_ = strip.row_first ? mid_.count * a_.tile_height : mid_.count * a_.tile_width;
      __syncthreads();
      differentiate(strip, tap);
      if (PYPHASE_MUTANT != 7) {
        __syncthreads();
      }
      if (a_.y) {
        add_grad_x(strip, tap, s);
      }
      sum_weights(strip, tap);
      tap += strip.first().kernel + strip.second().kernel + 2;
    }
  }

 private:
  // Whether (at + pad - t * dilation) / stride is whole, and what it is.
  __device__ __forceinline__ static bool output_at(int at, int tap, const TapAxis &axis,
                                                   int &output) {
    const int distance = at + axis.pad - tap * axis.dilation;
    output = floor_to(distance, axis.stride);
    return output * axis.stride == distance;
  }

  __device__ __forceinline__ float weight(int tap, int plane) const {
    return weights_[tap * a_.planes + plane];
  }
  __device__ __forceinline__ float x_at(int plane, int row, int column) const {
    return x_.at(plane, (row - all_.x_rows.begin) * a_.x_width + column - all_.x_columns.begin);
  }
  __device__ __forceinline__ float g_at(int plane, int row, int column) const {
    return g_.at(plane, (row - all_.g_rows.begin) * a_.g_width + column - all_.g_columns.begin);
  }

  // a and grad_h of one strip, zero outside of the intermediate.
  __device__ __forceinline__ void differentiate(const GeneralStrip &strip, int tap) {
    const TapAxis &first = strip.first(), &second = strip.second();
    const int most_mid = strip.row_first ? a_.out_width : a_.out_height;
    const int most_across = strip.row_first ? a_.height : a_.width;
    const int across = strip.row_first ? block_.row : block_.column;
    const int bias = tap + first.kernel + second.kernel;
    for (int e = static_cast<int>(threadIdx.x); e < a_.planes * mid_pixels_;
         e += static_cast<int>(blockDim.x)) {
      const Item it = block_.item(e, mid_pixels_);
      const int i = it.pixel / mid_width_, j = it.pixel % mid_width_;
      const int m = mid_.begin + (strip.row_first ? j : i);
      const int q = across + (strip.row_first ? i : j);
      float hidden = 0, grad = 0;
      if (m >= 0 && m < most_mid && q < most_across) {
        hidden = weight(bias, it.plane);
        for (int t = 0; t < first.kernel; ++t) {
          const int c = m * first.stride + t * first.dilation - first.pad;
          const float x = strip.row_first ? x_at(it.plane, q, c) : x_at(it.plane, c, q);
          hidden = fmaf(weight(tap + t, it.plane), x, hidden);
        }
        for (int t = 0; t < second.kernel; ++t) {
          int o;
          if (output_at(q, t, second, o)) {
            const float g = strip.row_first ? g_at(it.plane, o, m) : g_at(it.plane, m, o);
            grad = fmaf(weight(tap + first.kernel + t, it.plane), g, grad);
          }
        }
        grad *= slope(a_.activation, hidden);
        hidden = activate(a_.activation, hidden);
      }
      hidden_.at(it.plane, it.pixel) = hidden;
      grad_h_.at(it.plane, it.pixel) = grad;
    }
  }

  __device__ __forceinline__ void add_grad_x(const GeneralStrip &strip, int tap, int index) {
    const TapAxis &first = strip.first();
    const int pixels = a_.tile_height * a_.tile_width;
    for (int e = static_cast<int>(threadIdx.x); e < a_.planes * pixels;
         e += static_cast<int>(blockDim.x)) {
      const Item it = block_.item(e, pixels);
      const int i = it.pixel / a_.tile_width, j = it.pixel % a_.tile_width;
      const int row = block_.row + i, column = block_.column + j;
      float sum = 0;
      if (index > 0) {
        sum = out_.at(it.plane, it.pixel);
      } else if (a_.residual) {
        sum = g_at(it.plane, row, column);
      }
      for (int t = 0; t < first.kernel; ++t) {
        int m;
        if (output_at(strip.row_first ? column : row, t, first, m)) {
          const int at =
              strip.row_first ? i * mid_width_ + m - mid_.begin : (m - mid_.begin) * mid_width_ + j;
          sum = fmaf(weight(tap + t, it.plane), grad_h_.at(it.plane, at), sum);
        }
      }
      if (index + 1 < a_.count) {
        out_.at(it.plane, it.pixel) = sum;
      } else if (it.plane < block_.channels && row < a_.height && column < a_.width) {
        static_cast<T *>(a_.y)[block_.place(it.plane, row, column, a_.height, a_.width)] =
            from_float<T>(sum);
      }
    }
  }

  // Sums over the tile for each channel and tap: a warp at a time, its lanes over the pixels of a
  // channel, or in NHWC over the channels first.
  __device__ __forceinline__ void sum_weights(const GeneralStrip &strip, int tap) {
    const int first = strip.first().kernel, taps = first + strip.second().kernel + 2;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    const int together = a_.channels_last ? a_.planes : 1;  // channels of a warp
    const int lanes = 32 / together;                        // for the pixels of one
    for (int unit = warp; unit < taps * a_.planes / together; unit += warps) {
      const int t = unit % taps;
      const int plane = a_.channels_last ? lane % together : unit / taps;
      const int start = lane / together;
      float sum = t < first       ? sum_first(strip, t, plane, start, lanes)
                  : t < taps - 2  ? sum_second(strip, t - first, plane, start, lanes)
                  : t == taps - 2 ? sum_hidden(strip, plane, start, lanes)
                                  : sum_output(strip, plane, start, lanes);
      for (int distance = together; distance < 32; distance *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, PYPHASE_MUTANT == 8 ? 1 : distance);
      }
      if (lane < together && plane < block_.channels) {
        const std::int64_t channel =
            static_cast<std::int64_t>(block_.slice) * a_.channels + block_.channel + plane;
        a_.partial[channel * a_.taps + tap + t] = sum;
      }
    }
  }

  // Pixels of the intermediate that are this tile's own: body(m, q, place in the tile).
  template <class Body>
  __device__ __forceinline__ void each_own(const GeneralStrip &strip, int start, int lanes,
                                           Body body) const {
    const int across = strip.row_first ? a_.tile_height : a_.tile_width;
    const int first = strip.row_first ? block_.row : block_.column;
    const int most = strip.row_first ? a_.height : a_.width;
    const int most_mid = strip.row_first ? a_.out_width : a_.out_height;
    const int width = strip.row_first ? own_.count : across;
    for (int e = start; e < own_.count * across; e += lanes) {
      const int i = e / width, j = e % width;
      const int own = strip.row_first ? j : i, other = strip.row_first ? i : j;
      const int m = own_.begin + own, q = first + other;
      const int at = strip.row_first ? other * mid_width_ + m - mid_.begin
                                     : (m - mid_.begin) * mid_width_ + other;
      if (q < most && m < most_mid) {
        body(m, q, at);
      }
    }
  }

  __device__ __forceinline__ float sum_first(const GeneralStrip &strip, int tap, int plane,
                                             int start, int lanes) const {
    const TapAxis &first = strip.first();
    float sum = 0;
    each_own(strip, start, lanes, [&](int m, int q, int at) {
      const int c = m * first.stride + tap * first.dilation - first.pad;
      const float x = strip.row_first ? x_at(plane, q, c) : x_at(plane, c, q);
      sum = fmaf(grad_h_.at(plane, at), x, sum);
    });
    return sum;
  }

  __device__ __forceinline__ float sum_second(const GeneralStrip &strip, int tap, int plane,
                                              int start, int lanes) const {
    const TapAxis &second = strip.second();
    float sum = 0;
    each_own(strip, start, lanes, [&](int m, int q, int at) {
      int o;
      if (output_at(q, tap, second, o)) {
        const float g = strip.row_first ? g_at(plane, o, m) : g_at(plane, m, o);
        sum = fmaf(hidden_.at(plane, at), g, sum);
      }
    });
    return sum;
  }

  __device__ __forceinline__ float sum_hidden(const GeneralStrip &strip, int plane, int start,
                                              int lanes) const {
    float sum = 0;
    each_own(strip, start, lanes, [&](int, int, int at) { sum += grad_h_.at(plane, at); });
    return sum;
  }

  // The sum of g over the outputs that are this tile's own.
  __device__ __forceinline__ float sum_output(const GeneralStrip &strip, int plane, int start,
                                              int lanes) const {
    const Range rows = own_outputs(rows_, strip.vertical);
    const Range columns = own_outputs(columns_, strip.horizontal);
    float sum = 0;
    for (int e = start; e < rows.count * columns.count; e += lanes) {
      sum += g_at(plane, rows.begin + e / columns.count, columns.begin + e % columns.count);
    }
    return sum;
  }

  const GeneralArgs &a_;
  GeneralBlock block_;
  Range rows_, columns_, mid_, own_;
  GradientTile all_;
  int mid_width_, mid_pixels_;
  PlaneTile x_, g_, hidden_, grad_h_, out_;
  float *weights_;
};

template <class T>
__global__ void __launch_bounds__(256)
    depthwise_gradient(const __grid_constant__ GeneralArgs args) {
  PYPHASE_SHARED(float, shared);
  Gradient<T>(args, shared).run();
}

// One thread for each sum, over the slices in their order.
template <class T>
__global__ void __launch_bounds__(256) depthwise_sum(const __grid_constant__ SumArgs args) {
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
