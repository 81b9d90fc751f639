// Depthwise pairs and sums of them, backward, where depthwise_march serves them: all gradients from
// one reading of x and of the gradient of y.
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
  using Base::a_, Base::row_begin_, Base::row_end_, Base::plane_, Base::tile_;
  using Base::buffer_, Base::rows_, Base::group_, Base::base_;
  using Base::kMost, Base::kPad, Base::kCount, Base::kLanes, Base::column, Base::is_channel;
  static constexpr bool kRing = backward_ring(kMost, kCount, sizeof(T));
  static constexpr int kAtOnce = kPad % 5 == 0 ? 5 : 2;  // rows of g that are on their way at first

 public:
  __device__ __forceinline__ BackwardMarch(const MarchArgs &args, float *shared)
      : Base(args, shared, backward_halo(kMost, args.activation)),
        window_(rows_ + (2 + 2 * kCount) * buffer_, static_cast<int>(threadIdx.x),
                this->threads()) {
    const int end = tile_ + 4 * a_.own;
    own_ = column() >= tile_ && column() < end && column() < a_.width && is_channel(plane_);
  }

  template <int... kIndex>
  __device__ __forceinline__ void run(std::integer_sequence<int, kIndex...> strips) {
    this->begin(2 + 2 * kCount, strips);  // of x, of grad_h
    do {
      march(strips);
    } while (this->next_image());
    (meet_bias<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(), ...);
    add_up(strips);
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
    next_x_ = load(a_.x, row_begin_);
    stage(0);
    fetch(row_begin_);
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
      }
      window_.push(next_g_);
      if constexpr (!kRing) {
        fetch(row + 1);
      }
      float x[Traits::kWindow];
      this->read_window(buffer, x);
      float hidden[kCount][4], slopes[4], grad[kCount][4] = {};
      (make<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(x, hidden[kIndex], slopes), ...);
      keep_apart();
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
      keep_apart();
      if constexpr (kRing) {
        this->read_window(buffer, x);
      }
      (part<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(x, slopes, grad[kIndex], buffer),
       ...);
      if constexpr (kRing) {
        fetch(row + 1);
      }
    }
  }

  // Bring what a row brings to the windows: its last row of g, and the next row of x.
  __device__ __forceinline__ void fetch(int row) {
    if (row < row_end_) {
      next_g_ = load(a_.grad_y, row + kPad);
    }
    if (row + 1 < row_end_) {
      next_x_ = load(a_.x, row + 1);
    }
  }

  // Where g is in the ring, the registers hold neither x and rows of it at once nor what comes next
  // beside them, so that nothing is read ahead, and x is read twice.
  __device__ __forceinline__ static void keep_apart() {
    if constexpr (kRing) {
      __syncwarp();
    }
  }

  // The thread's columns of a row of x or g, zero where there is no image.
  __device__ __forceinline__ Four<T> load(const void *image, int row) const {
    const bool inside = row >= 0 && row < a_.height && is_channel(plane_) && column() < a_.width;
    const int at = inside ? row * this->row_step() + this->offset_in(plane_, column()) : 0;
    const T *const from = static_cast<const T *>(image) + base_ + at;
    const int width = a_.width + (PYPHASE_MUTANT == 11);
    Four<T> four;
    with_together<kLast>(a_.together, [&](auto together) {
      constexpr int kStep = decltype(together)::value;
#pragma unroll
      for (int v = 0; v < 4; v += kStep) {
        Several<T, kStep> part{};
        if (inside && (v == 0 || column() + v < width)) {
          part = load_several<kStep>(from + v * this->column_step());
        }
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
          four.value[v + i] = part.value[i];
        }
      }
    });
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
      store_shared(to, words_of(Four<float>{four[0], four[1], four[2], four[3]}));
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

  // All sums to `partial`, some at a time: the threads leave theirs in shared memory.
  template <int... kIndex>
  __device__ __forceinline__ void add_up(std::integer_sequence<int, kIndex...> strips) const {
    const int along = round_to(a_.groups, 4);  // of a channel, in NCHW
    const int pitch = backward_pitch(kLast, this->planes(), a_.groups);
    const int place = kLast ? group_ * kLanes + plane_ : plane_ * along + group_;
    const int slices = a_.tiles * a_.chunks;  // of an image
    const int block = static_cast<int>(blockIdx.x);
    const std::int64_t slice = block / (slices * a_.channel_blocks) * slices + block % slices;
#pragma unroll 1
    for (int from = 0; from < kSums; from += kTogetherDown) {
      __syncthreads();
#pragma unroll
      for (int n = 0; n < kSums; ++n) {
        if (n / kTogetherDown * kTogetherDown == from) {
          rows_[n % kTogetherDown * pitch + place] = own_ ? sum(n) : 0;
        }
      }
      if (PYPHASE_MUTANT != 12) {
        __syncthreads();
      }
      for (int i = static_cast<int>(threadIdx.x); i < this->planes() * kTogetherDown;
           i += this->threads()) {
        const int plane = kLast ? i % kLanes : i / kTogetherDown;
        const int u = kLast ? i / kLanes : i % kTogetherDown;
        const int tap = from + u < kSums ? tap_of(from + u, strips) : -1;
        if (tap >= 0 && is_channel(plane)) {
          const int channel = this->channel_ + plane;
          a_.partial[(slice * a_.channels + channel) * a_.taps + tap] =
              over_groups(rows_ + u * pitch + plane * (kLast ? 1 : along));
        }
      }
    }
  }

  // The sums in the order in which they are added up: of all horizontal taps, of all vertical ones,
  // of grad_h of each strip, of g. (In `partial`, this one lies behind all strips.)
  static constexpr int kSums = 2 * Traits::kTaps + kCount + 1;

  __device__ __forceinline__ float sum(int n) const {
    return n < Traits::kTaps       ? horizontal_[n]
           : n < 2 * Traits::kTaps ? vertical_[n - Traits::kTaps]
           : n < kSums - 1         ? intermediates_[n - 2 * Traits::kTaps]
                                   : outputs_[0] + outputs_[1] + outputs_[2] + outputs_[3];
  }

  // Where a sum lies among the taps of a channel in `partial`, -1: nowhere.
  template <int... kIndex>
  __device__ __forceinline__ int tap_of(int n, std::integer_sequence<int, kIndex...>) const {
    int begin = 0, tap = -1;
    (find<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(n, begin, tap), ...);
    return n == kSums - 1 ? begin : tap;
  }

  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void find(int n, int &begin, int &tap) const {
    const Embedded &across = a_.strips[kIndex].horizontal, &down = a_.strips[kIndex].vertical;
    if (across.taps == 0) {  // a sum of two
      return;
    }
    const int first = n - kOffset, second = first - Traits::kTaps;
    const int at = first < K ? across.index(first) : second < K ? down.index(second) : -1;
    if (at >= 0) {
      tap = begin + (first < K ? 0 : across.taps) + at;
    }
    if (n == 2 * Traits::kTaps + kIndex) {
      tap = begin + across.taps + down.taps;
    }
    begin += across.taps + down.taps + 1;
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
  GradientWindow<T, kMost, kRing> window_;
  float horizontal_[Traits::kTaps] = {}, vertical_[Traits::kTaps] = {};
  float intermediates_[kCount] = {}, outputs_[4] = {};  // sums of grad_h; of g, by column
};

template <class T, bool kLast, int kFirst, int... kRest>
__global__ void __launch_bounds__(backward_threads(kFirst, 1 + sizeof...(kRest), sizeof(T)), 1)
    depthwise_march_backward(const __grid_constant__ MarchArgs args) {
  PYPHASE_SHARED(float, shared);
  BackwardMarch<T, kLast, kFirst, kRest...> march(args, shared);
  march.run(std::make_integer_sequence<int, 1 + sizeof...(kRest)>{});
}

}  // namespace pyphase::conv::cuda
