// Depthwise pairs and sums of them, backward, where depthwise_march serves them: all gradients from
// one reading of x and of the gradient of y. Sums of strips in NCHW alone: in NHWC the registers
// that ptxas takes for them spill.
//
// With h = row(x, w1) + b1, a = act(h), y = column(a, w2) + b2 and g the gradient of y:
//   grad_a[q] = sum over t of w2[t] * g[q + pad - t]      grad_h = grad_a * act'(h)
//   grad_x[c] = sum over t of w1[t] * grad_h[c + pad - t]
//   grad_w1[t] = sum of grad_h[c] * x[c + t - pad]        grad_b1 = sum of grad_h
//   grad_w2[t] = sum of a[q] * g[q + pad - t]             grad_b2 = sum of g
//
// Layout: NCHW or NHWC, dense; float32, bfloat16, float16, summed in float32.
// Algorithm: a block owns some channels and whole rows, or a tile of columns where a row is too
// wide, and marches down the rows. A thread owns four neighbouring columns of a channel, and keeps
// their last K rows of g: the vertical taps need nothing else. A row of x is staged in shared
// memory, as in depthwise_march; h is made from a window of it, and not stored. grad_h goes to
// shared memory, too, since grad_x needs its neighbours: it is finished a row later, so that one
// barrier a row serves both. All strips of a sum share x, g and the sum of grad_x.
// The weights' sums stay in registers through all rows and images of a block, and are added up over
// its columns at the end, in a fixed order; they go to `partial`, and depthwise_sum adds the blocks
// up in theirs, so that the result is the same in every run.
// A pair whose column convolution comes first is computed with its convolutions exchanged, which is
// the same sum. Its first bias then meets g through the horizontal taps inside of the row alone.
// Memory: x once, g once and K - 1 rows of it more for each cut along the columns; grad_x once; the
// sums of each block, written and read. A cut along the rows costs K - 1 columns of x and of g or a
// little more, and the groups of threads that make grad_h there; with an activation, twice that.
// Who wins it: not known. Executed functionally as PTX on a CPU interpreter; never run on a GPU.
#pragma once

#include "depthwise_march.cuh"
#include "depthwise_march_window.cuh"

namespace pyphase::conv::cuda {

template <class T, bool kLast, int kFirst, int... kRest>
using BackwardTraits = MarchTraits<kLast, backward_lanes(sizeof(T)), kFirst, kRest...>;

template <class T, bool kLast, int kFirst, int... kRest>
class BackwardMarch : MarchBlock<T, BackwardTraits<T, kLast, kFirst, kRest...>> {
  using Traits = BackwardTraits<T, kLast, kFirst, kRest...>;
  using Base = MarchBlock<T, Traits>;
  using Base::a_, Base::row_begin_, Base::row_end_, Base::images_, Base::plane_, Base::tile_;
  using Base::buffer_, Base::rows_, Base::group_, Base::base_;
  using Base::kMost, Base::kPad, Base::kCount, Base::kLanes, Base::column, Base::channels_;
  static constexpr int kAtOnce = kPad % 5 == 0 ? 5 : 2;  // rows of g that are on their way at first

 public:
  __device__ __forceinline__ BackwardMarch(const MarchArgs &args, float *shared)
      : Base(args, shared, backward_halo(kMost, args.activation)),
        window_(rows_ + (2 + 2 * kCount) * buffer_, static_cast<int>(threadIdx.x),
                this->threads()) {
    const int end = tile_ + 4 * a_.own;
    own_ = column() >= tile_ && column() < end && column() < a_.width && plane_ < channels_;
  }

  template <int... kIndex>
  __device__ __forceinline__ void run(std::integer_sequence<int, kIndex...> strips) {
    this->begin(2 + 2 * kCount, strips);  // of x, of grad_h
    for (int image = 0; image < images_; ++image) {
      march(strips);
      this->next_image();
    }
    (meet_bias<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(), ...);
    int begin = 0;
    (add_up<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(begin), ...);
    const float all[1] = {outputs_[0] + outputs_[1] + outputs_[2] + outputs_[3]};
    add_up<0, 1>(all, {1, 0, 1}, begin);
  }

 private:
  // The buffers of x and of grad_h alternate. Between two barriers, those of x's row and of
  // grad_h's row before are read, the others written.
  template <int... kIndex>
  __device__ __forceinline__ void march(std::integer_sequence<int, kIndex...>) {
    for (int row = row_begin_ - kPad; row < row_begin_ + kPad; row += kAtOnce) {
      Four<T> rows[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        rows[j] = load(a_.grad_y, row + j);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        window_.push(rows[j]);
      }
    }
    next_g_ = load(a_.grad_y, row_begin_ + kPad);
    next_x_ = load(a_.x, row_begin_);
    stage(0);
    next_x_ = load(a_.x, row_begin_ + 1);
    for (int row = row_begin_; row <= row_end_; ++row) {
      const int buffer = (row - row_begin_) & 1;
      if (PYPHASE_MUTANT != 9) {
        __syncthreads();
      }
      if (row > row_begin_ && a_.y) {
        float sum[4] = {};
        if (a_.residual) {
          window_.read(kPad, sum);
        }
        const int before = PYPHASE_MUTANT == 10 ? buffer : buffer ^ 1;
        (add_grad_x<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(before, sum), ...);
        if (own_) {
          this->store(row - 1, sum);
        }
      }
      if (row == row_end_) {
        break;
      }
      if (row + 1 < row_end_) {
        stage(buffer ^ 1);
        next_x_ = load(a_.x, row + 2);
      }
      window_.push(next_g_);
      next_g_ = load(a_.grad_y, row + 1 + kPad);
      float x[Traits::kWindow];
      this->read_window(buffer, x);
      float hidden[kCount][4], slopes[4], grad[kCount][4] = {};
      (make<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(x, hidden[kIndex], slopes), ...);
      float taps[kCount][4];
      int slot = window_.begin();
#pragma unroll
      for (int j = 0; j < kMost; ++j) {
        float g[4];
        window_.read_next(j, slot, g);
        (meet<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(j, g, taps[kIndex],
                                                                    hidden[kIndex], grad[kIndex]),
         ...);
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          outputs_[v] += j == kPad ? g[v] : 0;
        }
      }
      (part<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(x, slopes, grad[kIndex], buffer),
       ...);
    }
  }

  // The thread's columns of a row of x or g, zero where there is no image.
  __device__ __forceinline__ Four<T> load(const void *image, int row) const {
    const bool inside = row >= 0 && row < a_.height && plane_ < channels_;
    const T *const from = static_cast<const T *>(image) + base_ +
                          std::int64_t{row} * this->row_step_ + this->offset_in(plane_, column());
    Four<T> four;
    if (!kLast && a_.vectors) {
      if (inside && column() < a_.width) {
        return load_four(from);
      }
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        four.value[v] = from_float<T>(0);
      }
      return four;
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const bool valid = inside && column() + v < a_.width + (PYPHASE_MUTANT == 11);
      four.value[v] = valid ? from[v * this->column_step_] : from_float<T>(0);
    }
    return four;
  }

  // The thread's columns of a row in shared memory.
  __device__ __forceinline__ void put(int buffer, const float (&four)[4]) const {
    float *const to = rows_ + buffer * buffer_ + this->staged_at(plane_, column());
    if constexpr (kLast) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        to[v * kLanes] = four[v];
      }
    } else {
      store_shared(to, float4{four[0], four[1], four[2], four[3]});
    }
  }

  __device__ __forceinline__ void stage(int buffer) const {
    float four[4];
    convert(next_x_, four);
    put(buffer, four);
  }

  __device__ __forceinline__ static int hidden_buffer(int index, int buffer) {
    return 2 + 2 * index + buffer;
  }

  // Of one strip and one row, a, and the slope of the activation.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void make(const float (&x)[Traits::kWindow], float (&hidden)[4],
                                       float (&slopes)[4]) const {
    constexpr int kFrom = Traits::kShift + (kMost - K) / 2;
    float taps[round_to(K, 4)];
    this->template read_taps<K>(kOffset, taps);
    const float bias = a_.strips[kIndex].column_first ? 0 : this->bias1(kIndex);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      hidden[v] = bias;
#pragma unroll
      for (int t = 0; t < K; ++t) {
        hidden[v] = fmaf(taps[t], x[kFrom + v + t], hidden[v]);
      }
      slopes[v] = 1;
    }
    if constexpr (kCount == 1) {
      if (a_.activation != 0) {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          slopes[v] = slope(a_.activation, hidden[v]);
          hidden[v] = activate(a_.activation, hidden[v]);
        }
      }
    }
  }

  // Row j of the window of g: to grad_a, and to the sums of the vertical taps. The taps are read on
  // the way, from the last to the first.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void meet(int j, const float (&g)[4], float (&taps)[4],
                                       const float (&hidden)[4], float (&grad)[4]) {
    const int t = (kMost + K) / 2 - 1 - j;
    if (t < 0 || t >= K) {
      return;
    }
    if (t == K - 1 || t % 4 == 3) {
      this->read_four(Traits::kTaps + kOffset + t / 4 * 4, taps);
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      grad[v] = fmaf(taps[t % 4], g[v], grad[v]);
      vertical_[kOffset + t] = fmaf(hidden[v], g[v], vertical_[kOffset + t]);
    }
  }

  // grad_h of one strip: to the sums of the horizontal taps and to the others.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void part(const float (&x)[Traits::kWindow], const float (&slopes)[4],
                                       float (&grad)[4], int buffer) {
    constexpr int kFrom = Traits::kShift + (kMost - K) / 2;
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      grad[v] = column() + v < a_.width ? grad[v] * slopes[v] : 0;
      intermediates_[kIndex] += grad[v];
#pragma unroll
      for (int t = 0; t < K; ++t) {
        horizontal_[kOffset + t] = fmaf(grad[v], x[kFrom + v + t], horizontal_[kOffset + t]);
      }
    }
    put(hidden_buffer(kIndex, buffer), grad);
  }

  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void add_grad_x(int buffer, float (&sum)[4]) const {
    constexpr int kFrom = Traits::kShift + (kMost - K) / 2;
    float taps[round_to(K, 4)], window[Traits::kWindow];
    this->template read_taps<K>(kOffset, taps);
    this->template read_window<kFrom, kFrom + K + 3>(hidden_buffer(kIndex, buffer), window);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int t = 0; t < K; ++t) {
        sum[v] = fmaf(taps[t], window[kFrom + v + K - 1 - t], sum[v]);
      }
    }
  }

  // Where columns come first: what g meets of bias1, times b1 in the horizontal taps' gradients and
  // times the taps in bias1's.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void meet_bias() {
    if (!a_.strips[kIndex].column_first) {
      return;
    }
    float taps[round_to(K, 4)];
    this->template read_taps<K>(kOffset, taps);
    intermediates_[kIndex] = 0;
#pragma unroll
    for (int t = 0; t < K; ++t) {
      float met = 0;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int at = column() + v + t - K / 2;
        met += at >= 0 && at < a_.width ? outputs_[v] : 0;
      }
      horizontal_[kOffset + t] = fmaf(this->bias1(kIndex), met, horizontal_[kOffset + t]);
      intermediates_[kIndex] = fmaf(taps[t], met, intermediates_[kIndex]);
    }
  }

  // The sums of one strip to `partial`, from place `begin` on.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void add_up(int &begin) {
    const MarchStripArgs &strip = a_.strips[kIndex];
    if (strip.horizontal.taps == 0) {  // a sum of two
      return;
    }
    add_up<kOffset, K>(horizontal_, strip.horizontal, begin);
    begin += strip.horizontal.taps;
    add_up<kOffset, K>(vertical_, strip.vertical, begin);
    begin += strip.vertical.taps;
    add_up<kIndex, 1>(intermediates_, {1, 0, 1}, begin);
    ++begin;
  }

  template <int kOffset, int K, int kSize>
  __device__ __forceinline__ void add_up(const float (&sums)[kSize], const Embedded &in,
                                         int begin) const {
    const int along = round_to(a_.groups, 4);  // of a channel, in NCHW
    const int pitch = backward_pitch(kLast, this->planes(), a_.groups);
    const int place = kLast ? group_ * kLanes + plane_ : plane_ * along + group_;
    const int slices = a_.tiles * a_.chunks;  // of an image
    const int block = static_cast<int>(blockIdx.x);
    const std::int64_t slice = block / (slices * a_.channel_blocks) * slices + block % slices;
#pragma unroll
    for (int from = 0; from < K; from += kTogetherDown) {
      __syncthreads();
#pragma unroll
      for (int u = 0; u < kTogetherDown; ++u) {
        if (from + u < K) {
          rows_[u * pitch + place] = own_ ? sums[kOffset + from + u] : 0;
        }
      }
      if (PYPHASE_MUTANT != 12) {
        __syncthreads();
      }
      for (int i = static_cast<int>(threadIdx.x); i < this->planes() * kTogetherDown;
           i += this->threads()) {
        const int plane = kLast ? i % kLanes : i / kTogetherDown;
        const int u = kLast ? i / kLanes : i % kTogetherDown;
        const int tap = from + u < K ? in.index(from + u) : -1;
        if (tap >= 0 && plane < channels_) {
          const std::int64_t channel = slice * a_.channels + this->channel_ + plane;
          a_.partial[channel * a_.taps + begin + tap] =
              over_groups(rows_ + u * pitch + plane * (kLast ? 1 : along));
        }
      }
    }
  }

  __device__ __forceinline__ float over_groups(const float *from) const {
    float sum = 0;
    if constexpr (kLast) {
      for (int j = 0; j < a_.groups; ++j) {
        sum += from[j * kLanes];
      }
    } else {
      for (int j = 0; j < a_.groups; j += 4) {
        const float4 four = load_shared(from + j);
        sum += four.x;
        sum += j + 1 < a_.groups ? four.y : 0;
        sum += j + 2 < a_.groups ? four.z : 0;
        sum += j + 3 < a_.groups ? four.w : 0;
      }
    }
    return sum;
  }

  bool own_;                 // whether the thread's columns are the tile's own
  Four<T> next_x_, next_g_;  // rows on their way
  GradientWindow<T, kMost, (kCount > 1)> window_;
  float horizontal_[Traits::kTaps] = {}, vertical_[Traits::kTaps] = {};
  float intermediates_[kCount] = {}, outputs_[4] = {};  // sums of grad_h; of g, by column
};

template <class T, bool kLast, int kFirst, int... kRest>
__global__ void __launch_bounds__(backward_threads(kFirst), 1)
    depthwise_march_backward(const __grid_constant__ MarchArgs args) {
  PYPHASE_SHARED(float, shared);
  BackwardMarch<T, kLast, kFirst, kRest...> march(args, shared);
  march.run(std::make_integer_sequence<int, 1 + sizeof...(kRest)>{});
}

}  // namespace pyphase::conv::cuda
