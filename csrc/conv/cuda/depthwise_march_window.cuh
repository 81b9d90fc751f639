// The rows of the gradient of y that a thread of depthwise_march_backward keeps.
#pragma once

#include "depthwise_common.cuh"

namespace pyphase::conv::cuda {

template <class T>
__device__ __forceinline__ void convert(const Four<T> &four, float (&to)[4]) {
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    to[v] = to_float(four.value[v]);
  }
}

// The last kRows rows of g that a thread has seen, of its four columns: in registers, or in shared
// memory, as a ring of the thread's own.
template <class T, int kRows, bool kRing>
class GradientWindow {
 public:
  __device__ __forceinline__ GradientWindow(float *, int, int) {}

  __device__ __forceinline__ void push(const Four<T> &four) {
#pragma unroll
    for (int j = 0; j + 1 < kRows; ++j) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        rows_[j][v] = rows_[j + 1][v];
      }
    }
    convert(four, rows_[kRows - 1]);
  }
  // Row j from the oldest on.
  __device__ __forceinline__ void read(int j, float (&to)[4]) const {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      to[v] = rows_[j][v];
    }
  }
  // All rows in their order, by a slot that goes round.
  __device__ __forceinline__ int begin() const { return 0; }
  __device__ __forceinline__ void read_next(int j, int &, float (&to)[4]) const { read(j, to); }

 private:
  float rows_[kRows][4] = {};
};

template <class T, int kRows>
class GradientWindow<T, kRows, true> {
  using Words = typename Four<T>::Words;

 public:
  __device__ __forceinline__ GradientWindow(float *shared, int thread, int threads)
      : own_(reinterpret_cast<Words *>(shared) + thread), threads_(threads) {}

  __device__ __forceinline__ void push(const Four<T> &four) {
    store_vector(own_ + oldest_ * threads_, words_of(four));
    oldest_ = after(oldest_, 1);
  }
  __device__ __forceinline__ void read(int j, float (&to)[4]) const {
    convert(load_several<4>(reinterpret_cast<const T *>(own_ + after(oldest_, j) * threads_)), to);
  }
  __device__ __forceinline__ int begin() const { return oldest_; }
  __device__ __forceinline__ void read_next(int, int &slot, float (&to)[4]) const {
    convert(load_several<4>(reinterpret_cast<const T *>(own_ + slot * threads_)), to);
    slot = after(slot, 1);
  }

 private:
  __device__ __forceinline__ static int after(int slot, int by) {
    return slot + by < kRows ? slot + by : slot + by - kRows;
  }

  Words *own_;
  int threads_, oldest_ = 0;
};

}  // namespace pyphase::conv::cuda
