// Depthwise pairs and sums of them, forward: y = x + sum over strips of column(act(row(x))).
//
// Layout: NCHW or NHWC, dense; float32, bfloat16, float16, summed in float32.
// Algorithm: a block owns some channels and a tile of columns, and marches down the rows. A row of
// x is staged in shared memory as floats (two buffers, one barrier a row, the next row on its way
// in registers). A thread owns four neighbouring columns of a channel: it makes four values of the
// intermediate from a window of the row, and adds them, times the vertical taps, to the K output
// rows that they belong to. Those K x 4 sums stay in registers, and shift by one row with each
// multiply-add: sum[j] = w[K - 1 - j] * mid + sum[j + 1]. The intermediate is never stored. All
// strips of a sum share the sums, so that 21 passes over the memory become two.
// A pair whose column convolution comes first is computed with its convolutions exchanged, which is
// the same sum; its first bias then adds b1 * sum of w2 over the taps inside of the row, a constant
// of the column. (With an activation between it does not commute: depthwise_general.)
// Small images of a batch pass through a block one after the other, so that weights are read once.
// Memory: x once, plus K - 1 rows for each cut along the columns and K - 1 columns for each cut
// along the rows; y once.
// Shared memory: NCHW windows are read as 128-bit vectors; the pitch of the channels is 4 * groups
// modulo 32, so that consecutive threads read consecutive vectors. In NHWC 16 lanes lie along the
// channels, and the two columns that a warp reads together are swapped by a bit of the group, so
// that they lie in different halves of the banks.
// Longer than other files: one march, whose steps share its registers.
// Who wins it: not known. Executed functionally as PTX on a CPU interpreter; never run on a GPU.
#pragma once

#include "depthwise_common.cuh"
#include "ptx.cuh"

namespace pyphase::conv::cuda {

constexpr int kShare = 8;  // most elements of a staged row that a thread brings

// Blocks of an SM that the registers are to suffice for: K x 4 sums, and as much again around them;
// an activation needs some, too.
constexpr int march_blocks(int most, bool active) { return most < (active ? 7 : 11) ? 2 : 1; }

template <bool kLast, bool kActive, int kFirst, int... kRest>
struct MarchTraits {
  static constexpr bool kIsActive = kActive;
  static constexpr int kCount = 1 + sizeof...(kRest);
  static constexpr int kMost = kFirst;  // the largest comes first
  static constexpr int kPad = kMost / 2;
  static constexpr int kLeft = march_left(kLast, kMost);
  static constexpr int kShift = kLeft - kPad;
  static constexpr int kWindow = march_window(kLast, kMost);
  static constexpr int kTaps = round_to(kFirst, 4) + (0 + ... + round_to(kRest, 4));
  static constexpr bool kTapsInRegisters = kTaps <= 12;
  // Horizontal taps, vertical taps, bias1 of each strip, bias2 of each; an odd number of vectors.
  static constexpr int kWeights = march_weights(kTaps, kCount);
};

// A staged row of one channel, as the window of a thread sees it.
template <bool kLast>
struct Window {
  const float *even, *odd;  // NHWC: see the header; NCHW: `even` alone

  template <int kSize>
  __device__ __forceinline__ void read(float (&out)[kSize]) const {
    if constexpr (kLast) {
#pragma unroll
      for (int m = 0; m < kSize; ++m) {
        // column 4 g + m lies at (m ^ bit), bit = (g + m / 4) & 1; see swapped()
        const bool second = m >> 2 & 1;
        const int at = second ? (m ^ 1) : m;
        out[m] = (at & 1 ? odd : even)[at * kLanePlanes];
      }
    } else {
#pragma unroll
      for (int m = 0; m < kSize; m += 4) {
        const float4 four = load_shared(even + m);
        out[m] = four.x;
        out[m + 1] = four.y;
        out[m + 2] = four.z;
        out[m + 3] = four.w;
      }
    }
  }
};

__device__ __forceinline__ int swapped(int column) { return column ^ (column >> 2 & 1); }

// One strip of one row: four values of the intermediate, added to the sums of the rows around.
// `kMoves`: the sums move on by a row.
template <class Traits, bool kLast, int K, int kOffset, bool kMoves>
struct MarchStrip {
  static constexpr int kMost = Traits::kMost;

  __device__ __forceinline__ static void taps(const float *weights, int plane, int planes,
                                              float (&out)[round_to(K, 4)]) {
    if constexpr (kLast) {
#pragma unroll
      for (int t = 0; t < K; ++t) {
        out[t] = weights[(kOffset + t) * planes + plane];
      }
    } else {
#pragma unroll
      for (int t = 0; t < K; t += 4) {
        const float4 four = load_shared(weights + plane * Traits::kWeights + kOffset + t);
        out[t] = four.x;
        out[t + 1] = four.y;
        out[t + 2] = four.z;
        out[t + 3] = four.w;
      }
    }
  }

  __device__ __forceinline__ static void add(const float (&window)[Traits::kWindow],
                                             const float (&horizontal)[round_to(K, 4)],
                                             const float (&vertical)[Traits::kTaps], float bias,
                                             int activation, const float (&start)[4],
                                             float (&sums)[kMost][4]) {
    constexpr int kFrom = Traits::kShift + (kMost - K) / 2;
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      float mid = bias;
#pragma unroll
      for (int t = 0; t < K; ++t) {
        mid = fmaf(horizontal[t], window[kFrom + v + t], mid);
      }
      if constexpr (Traits::kIsActive) {
        mid = activate(activation, mid);
      }
      constexpr int kRow = (kMost - K) / 2;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const float tap = vertical[kOffset + K - 1 - j];
        if constexpr (kMoves) {
          sums[j][v] = fmaf(tap, mid, j + 1 < K ? sums[j + 1][v] : start[v]);
        } else {
          sums[kRow + j][v] = fmaf(tap, mid, sums[kRow + j][v]);
        }
      }
    }
  }
};

template <class T, bool kLast, bool kActive, int kFirst, int... kRest>
class March {
  using Traits = MarchTraits<kLast, kActive, kFirst, kRest...>;
  static constexpr int kMost = Traits::kMost, kPad = Traits::kPad, kCount = Traits::kCount;

 public:
  __device__ __forceinline__ March(const MarchArgs &args, float *shared) : a_(args) {
    const int thread = static_cast<int>(threadIdx.x);
    int block = static_cast<int>(blockIdx.x);
    tile_ = block % a_.tiles * a_.groups * 4;
    block /= a_.tiles;
    row_begin_ = block % a_.chunks * a_.rows;
    row_end_ = row_begin_ + a_.rows < a_.height ? row_begin_ + a_.rows : a_.height;
    block /= a_.chunks;
    const int channel = block % a_.channel_blocks * a_.planes;
    const int image = block / a_.channel_blocks * a_.images;
    images_ = a_.batch - image < a_.images ? a_.batch - image : a_.images;
    channels_ = a_.channels - channel < a_.planes ? a_.channels - channel : a_.planes;
    channel_ = channel;
    group_ = kLast ? thread / kLanePlanes : thread % a_.groups;
    plane_ = kLast ? thread % kLanePlanes : thread / a_.groups;
    column_step_ = kLast ? a_.channels : 1;
    row_step_ = a_.width * column_step_;
    const std::int64_t size = static_cast<std::int64_t>(a_.height) * a_.width;
    // Of the block's first channel in NHWC, of the thread's own in NCHW.
    base_ = image * size * a_.channels + (kLast ? channel : (channel + plane_) * size);
    first_ = tile_ > Traits::kLeft ? tile_ - Traits::kLeft : 0;
    const int end = tile_ + a_.groups * 4 + Traits::kLeft;
    last_ = end < a_.width ? end : a_.width;
    weights_ = shared;
    rows_ = shared + (kLast ? kLanePlanes : a_.planes) * Traits::kWeights;
    buffer_ = march_buffer(kLast, kMost, a_.planes, a_.groups, a_.pitch);
  }

  template <int... kIndex>
  __device__ __forceinline__ void run(std::integer_sequence<int, kIndex...>) {
    for (int i = static_cast<int>(threadIdx.x); i < 2 * buffer_; i += threads()) {
      rows_[i] = 0;
    }
    (load_weights<offset(kIndex), size(kIndex)>(kIndex), ...);
    __syncthreads();
    read_weights(std::integer_sequence<int, kIndex...>{});
    for (int image = 0; image < images_; ++image) {
      if (image > 0) {
        base_ += static_cast<std::int64_t>(a_.height) * a_.width * a_.channels;
        __syncthreads();  // the last row of the image before has been read
      }
      march(std::integer_sequence<int, kIndex...>{});
    }
  }

 private:
  template <int... kIndex>
  __device__ __forceinline__ void march(std::integer_sequence<int, kIndex...>) {
    const int begin = row_begin_ > kPad ? row_begin_ - kPad : 0;
    const int end = row_end_ + kPad < a_.height ? row_end_ + kPad : a_.height;
    load(begin);
    stage(0);
    if (begin + 1 < end) {
      load(begin + 1);
    }
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        sums_[j][v] = start_[v];
      }
    }
    for (int row = begin; row < end; ++row) {
      const int buffer = (row - begin) & 1;
      if (PYPHASE_MUTANT != 1) {
        __syncthreads();
      }
      if (row + 1 < end) {
        stage(PYPHASE_MUTANT == 2 ? buffer : buffer ^ 1);
      }
      if (row + 2 < end) {
        load(row + 2);
      }
      float window[Traits::kWindow];
      window_at(buffer).read(window);
      (strip<kIndex, offset(kIndex), size(kIndex)>(window), ...);
      if (a_.residual) {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          sums_[kPad][v] += window[Traits::kShift + kPad + v];
        }
      }
      if (row - kPad >= row_begin_) {
        store(row - kPad, sums_[0]);
      }
    }
    if (row_end_ + kPad > a_.height) {  // the rows below the image add nothing
#pragma unroll
      for (int j = 1; j <= kPad; ++j) {
        const int row = end - 1 - kPad + j;
        if (row >= row_begin_ && row < row_end_) {
          store(row, sums_[j]);
        }
      }
    }
  }

  __host__ __device__ static constexpr int size(int index) {
    const int kSizes[] = {kFirst, kRest...};
    return kSizes[index];
  }
  __host__ __device__ static constexpr int offset(int index) {
    int sum = 0;
    for (int i = 0; i < index; ++i) {
      sum += round_to(size(i), 4);
    }
    return sum;
  }
  __device__ __forceinline__ int threads() const {
    return (kLast ? kLanePlanes : a_.planes) * a_.groups;
  }
  __device__ __forceinline__ int weight_at(int plane, int tap) const {
    return kLast ? tap * kLanePlanes + plane : plane * Traits::kWeights + tap;
  }

  // Taps of one strip to shared memory, zero for channels that there are not and beyond K.
  template <int kOffset, int K>
  __device__ __forceinline__ void load_weights(int index) {
    constexpr int kTaps = round_to(K, 4);
    const MarchStripArgs &strip = a_.strips[index];
    const StripWeights &from = strip.weights;
    const int planes = kLast ? kLanePlanes : a_.planes;
    for (int i = static_cast<int>(threadIdx.x); i < planes * kTaps; i += threads()) {
      const int plane = kLast ? i % kLanePlanes : i / kTaps;
      const int tap = kLast ? i / kLanePlanes : i % kTaps;
      weights_[weight_at(plane, kOffset + tap)] =
          embedded(from.horizontal, strip.horizontal, plane, tap);
      weights_[weight_at(plane, Traits::kTaps + kOffset + tap)] =
          embedded(from.vertical, strip.vertical, plane, tap);
    }
    for (int plane = static_cast<int>(threadIdx.x); plane < planes; plane += threads()) {
      const bool valid = plane < channels_;
      weights_[weight_at(plane, 2 * Traits::kTaps + index)] =
          valid ? load_one<T>(from.bias1, channel_ + plane) : 0;
      weights_[weight_at(plane, 2 * Traits::kTaps + kCount + index)] =
          valid ? load_one<T>(from.bias2, channel_ + plane) : 0;
    }
  }

  __device__ __forceinline__ float embedded(const void *from, const Embedded &in, int plane,
                                            int tap) const {
    const int at = tap - in.first;
    const bool valid = at >= 0 && at % in.step == 0 && at < in.taps * in.step && plane < channels_;
    return valid ? load_one<T>(from, (channel_ + plane) * in.taps + at / in.step) : 0.0f;
  }

  template <int... kIndex>
  __device__ __forceinline__ void read_weights(std::integer_sequence<int, kIndex...>) {
#pragma unroll
    for (int t = 0; t < Traits::kTaps; ++t) {
      vertical_[t] = weights_[weight_at(plane_, Traits::kTaps + t)];
      if constexpr (Traits::kTapsInRegisters) {
        horizontal_[t] = weights_[weight_at(plane_, t)];
      }
    }
    float bias = 0;
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      bias1_[s] = weights_[weight_at(plane_, 2 * Traits::kTaps + s)];
      bias += weights_[weight_at(plane_, 2 * Traits::kTaps + kCount + s)];
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      start_[v] = bias;
    }
    (add_inside<kIndex, offset(kIndex), size(kIndex)>(), ...);
  }

  // Where columns come first, what bias1 adds to a column of the output: the horizontal taps that
  // meet columns of the image.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void add_inside() {
    if (!a_.strips[kIndex].column_first) {
      return;
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const int column = tile_ + 4 * group_ + v - K / 2;
      float sum = 0;
      for (int t = 0; t < K; ++t) {
        if (column + t >= 0 && column + t < a_.width) {
          sum += weights_[weight_at(plane_, kOffset + t)];
        }
      }
      start_[v] = fmaf(bias1_[kIndex], sum, start_[v]);
    }
    bias1_[kIndex] = 0;
  }

  // The thread's share of a row of x, kStep neighbours in memory at a time: in NCHW of its own
  // channel, in NHWC of any of the block's. body(number, channel of the block, column)
  template <int kStep, class Body>
  __device__ __forceinline__ void each(Body body) const {
    constexpr int kLanes = kLanePlanes / kStep;
    const int end = last_ + (PYPHASE_MUTANT == 3);
    // One by one, channels whose rows begin in the same bank take the columns in another order.
    const int turns = last_ - first_ > 4 * a_.groups ? kShare : kShare / 2;
#pragma unroll
    for (int u = 0; u < kShare / kStep; ++u) {
      int plane = plane_, column = 0;
      if constexpr (kLast) {
        plane = static_cast<int>(threadIdx.x) % kLanes * kStep;
        column = first_ + static_cast<int>(threadIdx.x) / kLanes + u * a_.groups * kStep;
      } else if constexpr (kStep == 1) {
        const int turn = (u + plane_ * a_.groups / 8) & (turns - 1);
        column = u < turns ? first_ + group_ + turn * a_.groups : end;
      } else {
        column = first_ + (group_ + u * a_.groups) * kStep;
      }
      if (plane < channels_ && column < end) {
        body(u * kStep, plane, column);
      }
    }
  }

  __device__ __forceinline__ void load(int row) {
    const T *const from = static_cast<const T *>(a_.x) + base_ + row * row_step_;
    if (a_.vectors) {
      each<4>([&](int u, int plane, int column) {
        const Four<T> four = load_four(from + offset_in(plane, column));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          next_[u + i] = four.value[i];
        }
      });
    } else {
      each<1>([&](int u, int plane, int column) { next_[u] = from[offset_in(plane, column)]; });
    }
  }

  __device__ __forceinline__ void stage(int buffer) {
    float *const to = rows_ + buffer * buffer_;
    if (a_.vectors) {
      each<4>([&](int u, int plane, int column) {
        store_shared(to + staged_at(plane, column),
                     float4{to_float(next_[u]), to_float(next_[u + 1]), to_float(next_[u + 2]),
                            to_float(next_[u + 3])});
      });
    } else {
      each<1>(
          [&](int u, int plane, int column) { to[staged_at(plane, column)] = to_float(next_[u]); });
    }
  }

  __device__ __forceinline__ int offset_in(int plane, int column) const {
    return kLast ? column * column_step_ + plane : column;
  }

  __device__ __forceinline__ int staged_at(int plane, int column) const {
    const int at = column + Traits::kLeft - tile_;
    return kLast ? swapped(at) * kLanePlanes + plane : plane * a_.pitch + at;
  }

  __device__ __forceinline__ Window<kLast> window_at(int buffer) const {
    const float *const from = rows_ + buffer * buffer_;
    if constexpr (kLast) {
      const float *const own = from + 4 * group_ * kLanePlanes + plane_;
      const int swap = (group_ & 1) * kLanePlanes;
      return {own + swap, own - swap};
    } else {
      return {from + plane_ * a_.pitch + 4 * group_ + (PYPHASE_MUTANT == 4 ? 4 : 0), nullptr};
    }
  }

  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void strip(const float (&window)[Traits::kWindow]) {
    using Strip = MarchStrip<Traits, kLast, K, kOffset, kIndex == 0>;
    float taps[round_to(K, 4)];
    if constexpr (Traits::kTapsInRegisters) {
#pragma unroll
      for (int t = 0; t < K; ++t) {
        taps[t] = horizontal_[kOffset + t];
      }
    } else {
      Strip::taps(weights_, plane_, kLanePlanes, taps);
    }
    Strip::add(window, taps, vertical_, bias1_[kIndex], a_.activation, start_, sums_);
  }

  __device__ __forceinline__ void store(int row, const float (&four)[4]) const {
    const int column = tile_ + 4 * group_;
    if (plane_ >= channels_ || column >= a_.width) {
      return;
    }
    T *const to = static_cast<T *>(a_.y) + base_ + row * row_step_ + offset_in(plane_, column);
    if (!kLast && a_.vectors) {
      Four<T> out;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        out.value[v] = from_float<T>(four[v]);
      }
      store_four(to, out);
      return;
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      if (column + v < a_.width) {
        to[v * column_step_] = from_float<T>(four[v]);
      }
    }
  }

  const MarchArgs &a_;
  int tile_, row_begin_, row_end_, channel_, channels_, group_, plane_, column_step_, row_step_;
  int first_, last_, buffer_, images_;
  std::int64_t base_;
  float *weights_, *rows_;
  T next_[kShare];
  float vertical_[Traits::kTaps], horizontal_[Traits::kTapsInRegisters ? Traits::kTaps : 1];
  float bias1_[kCount], start_[4], sums_[kMost][4];
};

template <class T, bool kLast, bool kActive, int kFirst, int... kRest>
__global__ void __launch_bounds__(kMarchThreads, march_blocks(kFirst, kActive))
    depthwise_march(const __grid_constant__ MarchArgs args) {
  PYPHASE_SHARED(float, shared);
  March<T, kLast, kActive, kFirst, kRest...> march(args, shared);
  march.run(std::make_integer_sequence<int, 1 + sizeof...(kRest)>{});
}

}  // namespace pyphase::conv::cuda
