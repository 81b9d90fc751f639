// What the marches of both passes share: a block's place, its weights, and the windows through
// which threads see a row in shared memory. The algorithms are in depthwise_forward.cuh and
// depthwise_march_backward.cuh.
//
// A thread owns four neighbouring columns of a channel, and sees a staged row through a window.
// Shared memory: NCHW windows are read as 128-bit vectors; the pitch of the channels is 4 * groups
// modulo 32, so that consecutive threads read consecutive vectors. In NHWC 16 or 8 lanes lie along
// the channels, and each four columns are followed by the room of one, so that the columns that a
// warp reads together lie in different banks.
#pragma once

#include "depthwise_common.cuh"
#include "ptx.cuh"

namespace pyphase::conv::cuda {

// kLanes: channels of a block in NHWC.
template <bool kIsLast, int kLanesOf, int kFirst, int... kRest>
struct MarchTraits {
  static constexpr bool kLast = kIsLast;
  static constexpr int kLanes = kLanesOf;
  static constexpr int kCount = 1 + sizeof...(kRest);
  static constexpr int kMost = kFirst;  // the largest comes first
  static constexpr int kPad = kMost / 2;
  static constexpr int kLeft = march_left(kMost);
  static constexpr int kShift = kLeft - kPad;
  static constexpr int kWindow = march_window(kMost);
  static constexpr int kTaps = round_to(kFirst, 4) + (0 + ... + round_to(kRest, 4));
  // Horizontal taps, vertical taps, bias1 of each strip, bias2 of each; an odd number of vectors.
  static constexpr int kWeights = march_weights(kTaps, kCount);

  __host__ __device__ static constexpr int size(int index) {
    const int kSizes[] = {kFirst, kRest...};
    return kSizes[index];
  }
  // Of a strip's taps among all.
  __host__ __device__ static constexpr int offset(int index) {
    int sum = 0;
    for (int i = 0; i < index; ++i) {
      sum += round_to(size(i), 4);
    }
    return sum;
  }
};

template <class T, class Traits>
class MarchBlock {
 protected:
  static constexpr bool kLast = Traits::kLast;
  static constexpr int kMost = Traits::kMost, kPad = Traits::kPad, kCount = Traits::kCount;
  static constexpr int kLanes = Traits::kLanes;

  // `halo`: groups that a tile has on a side where it doesn't end with the row.
  __device__ __forceinline__ MarchBlock(const MarchArgs &args, float *shared, int halo) : a_(args) {
    const int thread = static_cast<int>(threadIdx.x);
    int block = static_cast<int>(blockIdx.x);
    tile_ = block % a_.tiles * a_.own * 4;
    first_ = tile_ > 4 * halo ? tile_ - 4 * halo : 0;
    block /= a_.tiles;
    row_begin_ = block % a_.chunks * a_.rows;
    row_end_ = row_begin_ + a_.rows < a_.height ? row_begin_ + a_.rows : a_.height;
    block /= a_.chunks;
    const int channel = block % a_.channel_blocks * a_.planes;
    const int image = block / a_.channel_blocks * a_.images;
    images_ = a_.batch - image < a_.images ? a_.batch - image : a_.images;
    channel_ = channel;
    group_ = kLast ? thread / kLanes : thread % a_.groups;
    plane_ = kLast ? thread % kLanes : thread / a_.groups;
    const std::int64_t size = static_cast<std::int64_t>(a_.height) * a_.width;
    // Of the block's first channel in NHWC, of the thread's own in NCHW.
    base_ = image * size * a_.channels + (kLast ? channel : (channel + plane_) * size);
    weights_ = shared;
    rows_ = shared + planes() * Traits::kWeights;
    buffer_ = march_row(kLast, kMost, planes(), a_.groups);
  }

  // Zeros to `rows` staged rows, the weights to their place.
  template <int... kIndex>
  __device__ __forceinline__ void begin(int rows, std::integer_sequence<int, kIndex...>) {
    for (int i = 4 * static_cast<int>(threadIdx.x); i < rows * buffer_; i += 4 * threads()) {
      store_shared(rows_ + i, uint4{});
    }
    (load_weights<Traits::offset(kIndex), Traits::size(kIndex)>(kIndex), ...);
    __syncthreads();
  }

  // Move on to the block's next image, all threads together; false where there is none.
  __device__ __forceinline__ bool next_image() {
    __syncthreads();
    base_ += static_cast<std::int64_t>(a_.height) * a_.width * a_.channels;
    return --images_ > 0;
  }

  __device__ __forceinline__ int planes() const { return kLast ? kLanes : a_.planes; }
  __device__ __forceinline__ int threads() const { return planes() * a_.groups; }
  __device__ __forceinline__ int column_step() const { return kLast ? a_.channels : 1; }
  __device__ __forceinline__ int row_step() const { return a_.width * column_step(); }
  __device__ __forceinline__ bool is_channel(int plane) const {
    return channel_ + plane < a_.channels;
  }
  __device__ __forceinline__ int column() const { return first_ + 4 * group_; }
  __device__ __forceinline__ static int weight_at(int plane, int tap) {
    return plane * Traits::kWeights + tap;
  }
  __device__ __forceinline__ float bias1(int index) const {
    return weights_[weight_at(plane_, 2 * Traits::kTaps + index)];
  }
  __device__ __forceinline__ float bias2(int index) const {
    return weights_[weight_at(plane_, 2 * Traits::kTaps + kCount + index)];
  }

  // K taps from a place that is a multiple of four.
  template <int K>
  __device__ __forceinline__ void read_taps(int from, float (&out)[round_to(K, 4)]) const {
#pragma unroll
    for (int t = 0; t < K; t += 4) {
      read_four(from + t, out + t);
    }
  }
  __device__ __forceinline__ void read_four(int from, float *out) const {
    const float4 four = load_shared(weights_ + weight_at(plane_, from));
    out[0] = four.x;
    out[1] = four.y;
    out[2] = four.z;
    out[3] = four.w;
  }

  __device__ __forceinline__ int offset_in(int plane, int column) const {
    return kLast ? column * column_step() + plane : column;
  }

  __device__ __forceinline__ int staged_at(int plane, int column) const {
    const int at = column + Traits::kLeft - first_;
    return kLast ? (at + (at >> 2)) * kLanes + plane : plane * a_.pitch + at;
  }

  // Elements [kBegin, kEnd) of the thread's window of a staged row, and perhaps those beside.
  template <int kBegin = 0, int kEnd = Traits::kWindow>
  __device__ __forceinline__ void read_window(int buffer, float (&out)[Traits::kWindow]) const {
    const float *const row = rows_ + buffer * buffer_;
    if constexpr (kLast) {
      const float *const from = row + 5 * group_ * kLanes + plane_;
#pragma unroll
      for (int m = kBegin; m < kEnd; ++m) {
        out[m] = from[(m + m / 4) * kLanes];
      }
    } else {
      const float *const from =
          row + plane_ * a_.pitch + 4 * group_ + (PYPHASE_MUTANT == 4 ? 4 : 0);
#pragma unroll
      for (int m = kBegin / 4 * 4; m < kEnd; m += 4) {
        const float4 four = load_shared(from + m);
        out[m] = four.x;
        out[m + 1] = four.y;
        out[m + 2] = four.z;
        out[m + 3] = four.w;
      }
    }
  }

  // Four columns of a row of y, those that there are.
  __device__ __forceinline__ void store(int row, const float (&four)[4]) const {
    if (!is_channel(plane_) || column() >= a_.width) {
      return;
    }
    T *const to = static_cast<T *>(a_.y) + base_ + row * row_step() + offset_in(plane_, column());
    with_together<kLast>(a_.together, [&](auto together) {
      constexpr int kStep = decltype(together)::value;
#pragma unroll
      for (int v = 0; v < 4; v += kStep) {
        Several<T, kStep> out;
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
          out.value[i] = from_float<T>(four[v + i]);
        }
        if (column() + v < a_.width) {
          store_global(to + v * column_step(), words_of(out));
        }
      }
    });
  }

  const MarchArgs &a_;
  int tile_, first_;  // columns: the first that is the tile's own; the first of the block
  int row_begin_, row_end_, channel_, group_, plane_, buffer_, images_;
  std::int64_t base_;
  float *weights_, *rows_;

 private:
  // Taps of one strip to shared memory, zero for channels that there are not and beyond K.
  template <int kOffset, int K>
  __device__ __forceinline__ void load_weights(int index) {
    constexpr int kTaps = round_to(K, 4);
    const MarchStripArgs &strip = a_.strips[index];
    const StripWeights &from = strip.weights;
    for (int i = static_cast<int>(threadIdx.x); i < planes() * kTaps; i += threads()) {
      const int plane = i / kTaps, tap = i % kTaps;
      weights_[weight_at(plane, kOffset + tap)] =
          embedded(from.horizontal, strip.horizontal, plane, tap);
      weights_[weight_at(plane, Traits::kTaps + kOffset + tap)] =
          embedded(from.vertical, strip.vertical, plane, tap);
    }
    for (int plane = static_cast<int>(threadIdx.x); plane < planes(); plane += threads()) {
      const bool valid = is_channel(plane);
      weights_[weight_at(plane, 2 * Traits::kTaps + index)] =
          valid ? load_one<T>(from.bias1, channel_ + plane) : 0;
      weights_[weight_at(plane, 2 * Traits::kTaps + kCount + index)] =
          valid ? load_one<T>(from.bias2, channel_ + plane) : 0;
    }
  }

  __device__ __forceinline__ float embedded(const void *from, const Embedded &in, int plane,
                                            int tap) const {
    const int at = in.index(tap);
    return at >= 0 && is_channel(plane) ? load_one<T>(from, (channel_ + plane) * in.taps + at)
                                        : 0.0f;
  }
};

}  // namespace pyphase::conv::cuda
