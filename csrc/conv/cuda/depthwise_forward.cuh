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
// Who wins it: not known. Executed functionally as PTX on a CPU interpreter; never run on a GPU.
#pragma once

#include "depthwise_march.cuh"

namespace pyphase::conv::cuda {

constexpr int kShare = 8;  // most elements of a staged row that a thread brings

// Blocks of an SM that the registers are to suffice for: K x 4 sums, and as much again around them;
// an activation needs some, too.
constexpr int march_blocks(int most, bool active) { return most < (active ? 7 : 11) ? 2 : 1; }

template <class T, bool kLast, bool kActive, int kFirst, int... kRest>
class March : MarchBlock<T, MarchTraits<kLast, kLanePlanes, kFirst, kRest...>> {
  using Traits = MarchTraits<kLast, kLanePlanes, kFirst, kRest...>;
  using Base = MarchBlock<T, Traits>;
  using Base::a_, Base::row_begin_, Base::row_end_, Base::plane_, Base::weights_;
  using Base::kMost, Base::kPad, Base::kCount, Base::column, Base::store, Base::weight_at;
  using Base::offset_in, Base::staged_at;
  using Base::rows_, Base::group_, Base::is_channel, Base::first_;
  static constexpr bool kTapsInRegisters = Traits::kTaps <= 12;

 public:
  __device__ __forceinline__ March(const MarchArgs &args, float *shared) : Base(args, shared, 0) {
    const int end = first_ + a_.groups * 4 + Traits::kLeft;
    staged_ = first_ > Traits::kLeft ? first_ - Traits::kLeft : 0;
    last_ = end < a_.width ? end : a_.width;
  }

  template <int... kIndex>
  __device__ __forceinline__ void run(std::integer_sequence<int, kIndex...> strips) {
    this->begin(2, strips);
    read_weights(strips);
    do {
      march(strips);
    } while (this->next_image());
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
      this->read_window(buffer, window);
      (strip<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(window), ...);
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

  template <int... kIndex>
  __device__ __forceinline__ void read_weights(std::integer_sequence<int, kIndex...>) {
#pragma unroll
    for (int t = 0; t < Traits::kTaps; ++t) {
      vertical_[t] = weights_[weight_at(plane_, Traits::kTaps + t)];
      if constexpr (kTapsInRegisters) {
        horizontal_[t] = weights_[weight_at(plane_, t)];
      }
    }
    float bias = 0;
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      bias1_[s] = this->bias1(s);
      bias += this->bias2(s);
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      start_[v] = bias;
    }
    (add_inside<kIndex, Traits::offset(kIndex), Traits::size(kIndex)>(), ...);
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
      const int from = column() + v - K / 2;
      float sum = 0;
      for (int t = 0; t < K; ++t) {
        if (from + t >= 0 && from + t < a_.width) {
          sum += weights_[weight_at(plane_, kOffset + t)];
        }
      }
      start_[v] = fmaf(bias1_[kIndex], sum, start_[v]);
    }
    bias1_[kIndex] = 0;
  }

  // One strip of one row: four values of the intermediate, added to the sums of the rows around.
  // The first strip moves the sums on by a row.
  template <int kIndex, int kOffset, int K>
  __device__ __forceinline__ void strip(const float (&window)[Traits::kWindow]) {
    constexpr int kRow = (kMost - K) / 2, kFrom = Traits::kShift + kRow;
    float taps[round_to(K, 4)];
    if constexpr (kTapsInRegisters) {
#pragma unroll
      for (int t = 0; t < K; ++t) {
        taps[t] = horizontal_[kOffset + t];
      }
    } else {
      this->template read_taps<K>(kOffset, taps);
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      float mid = bias1_[kIndex];
#pragma unroll
      for (int t = 0; t < K; ++t) {
        mid = fmaf(taps[t], window[kFrom + v + t], mid);
      }
      if constexpr (kActive) {
        mid = activate(a_.activation, mid);
      }
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const float tap = vertical_[kOffset + K - 1 - j];
        if constexpr (kIndex == 0) {
          sums_[j][v] = fmaf(tap, mid, j + 1 < K ? sums_[j + 1][v] : start_[v]);
        } else {
          sums_[kRow + j][v] = fmaf(tap, mid, sums_[kRow + j][v]);
        }
      }
    }
  }

  // The thread's share of a row of x, kStep neighbours in memory at a time: in NCHW of its own
  // channel, in NHWC of any of the block's. body(number, channel of the block, column)
  template <int kStep, class Body>
  __device__ __forceinline__ void each(Body body) const {
    constexpr int kAside = kLanePlanes / kStep, kMostTurns = kShare / kStep;
    const int end = last_ + (PYPHASE_MUTANT == 3);
    if (!kLast && !is_channel(plane_)) {
      return;
    }
    // Less than four at once, channels whose rows begin in the same bank take the columns in
    // another order.
    const int turns = last_ - staged_ > 4 * a_.groups ? kMostTurns : kMostTurns / 2;
#pragma unroll
    for (int u = 0; u < kMostTurns; ++u) {
      int plane = plane_, column = 0;
      if constexpr (kLast) {
        plane = static_cast<int>(threadIdx.x) % kAside * kStep;
        column = staged_ + static_cast<int>(threadIdx.x) / kAside + u * a_.groups * kStep;
      } else if constexpr (kStep < 4) {
        const int turn = (u + plane_ * a_.groups / 8) & (turns - 1);
        column = u < turns ? staged_ + (group_ + turn * a_.groups) * kStep : end;
      } else {
        column = staged_ + (group_ + u * a_.groups) * kStep;
      }
      if ((!kLast || is_channel(plane)) && column < end) {
        body(u * kStep, plane, column);
      }
    }
  }

  // body(kStep), a constant: in NHWC channels are neighbours.
  template <class Body>
  __device__ __forceinline__ void with_step(Body body) const {
    if (kLast && a_.together == 4) {
      body(std::integral_constant<int, 4>{});
    } else {
      with_together<kLast>(a_.together, body);
    }
  }

  __device__ __forceinline__ void load(int row) {
    const T *const from = static_cast<const T *>(a_.x) + this->base_ + row * this->row_step();
    with_step([&](auto step) {
      constexpr int kStep = decltype(step)::value;
      each<kStep>([&](int u, int plane, int column) {
        const Several<T, kStep> part = load_several<kStep>(from + offset_in(plane, column));
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
          next_[u + i] = part.value[i];
        }
      });
    });
  }

  __device__ __forceinline__ void stage(int buffer) {
    float *const to = rows_ + buffer * this->buffer_;
    with_step([&](auto step) {
      constexpr int kStep = decltype(step)::value;
      each<kStep>([&](int u, int plane, int column) {
        Several<float, kStep> part;
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
          part.value[i] = to_float(next_[u + i]);
        }
        store_shared(to + staged_at(plane, column), words_of(part));
      });
    });
  }

  int staged_, last_;  // columns in shared memory
  T next_[kShare];
  float vertical_[Traits::kTaps], horizontal_[kTapsInRegisters ? Traits::kTaps : 1];
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
