// What the depthwise kernels share: conversions, activations and their slopes, in float.
#pragma once

#include <math.h>  // fmaf and its like, without a namespace, as on the device

#include <cstring>

#include "../problem.h"
#include "depthwise_args.h"
#include "portable.h"

namespace pyphase::conv::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

// Four neighbours in memory, moved by one instruction; the address is a multiple of their size.
template <class T>
struct Four {
  using Words = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
  T value[4];
};

template <class T>
__device__ __forceinline__ Four<T> load_four(const T *from) {
  const auto words = load_vector<typename Four<T>::Words>(from);
  Four<T> four;
  memcpy(&four, &words, sizeof(four));
  return four;
}

template <class T>
__device__ __forceinline__ void store_four(T *to, const Four<T> &four) {
  typename Four<T>::Words words;
  memcpy(&words, &four, sizeof(words));
  store_vector(to, words);
}

__device__ __forceinline__ float activate(int activation, float h) {
  switch (static_cast<Activation>(activation)) {
    case Activation::relu:
      return h < 0 ? 0.0f : h;
    case Activation::gelu:
      return 0.5f * h * erfcf(-0.70710678f * h);
    case Activation::silu:
      return h / (1.0f + expf(-h));
    default:
      return h;
  }
}

__device__ __forceinline__ float slope(int activation, float h) {
  switch (static_cast<Activation>(activation)) {
    case Activation::relu:
      return h > 0 ? 1.0f : 0.0f;
    case Activation::gelu:
      return 0.5f * erfcf(-0.70710678f * h) + 0.39894228f * h * expf(-0.5f * h * h);
    case Activation::silu: {
      const float s = 1.0f / (1.0f + expf(-h));
      return s * (1.0f + h * (1.0f - s));
    }
    default:
      return 1.0f;
  }
}

template <class T>
__device__ __forceinline__ float load_one(const void *from, int index) {
  return from ? to_float(static_cast<const T *>(from)[index]) : 0.0f;
}

}  // namespace pyphase::conv::cuda
