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

// Neighbours in memory, moved by one instruction; the address is a multiple of their size.
template <class T, int kCount>
struct Several {
  static constexpr int kSize = kCount * sizeof(T);
  using Words = std::conditional_t<
      kSize == 16, uint4,
      std::conditional_t<kSize == 8, uint2,
                         std::conditional_t<kSize == 4, std::uint32_t, std::uint16_t>>>;
  T value[kCount];
};
template <class T>
using Four = Several<T, 4>;

template <int kCount, class T>
__device__ __forceinline__ Several<T, kCount> load_several(const T *from) {
  const auto words = load_vector<typename Several<T, kCount>::Words>(from);
  Several<T, kCount> several;
  memcpy(&several, &words, sizeof(several));
  return several;
}

template <class T, int kCount>
__device__ __forceinline__ auto words_of(const Several<T, kCount> &several) {
  typename Several<T, kCount>::Words words;
  memcpy(&words, &several, sizeof(words));
  return words;
}

// body(as many elements as are moved as one), a constant. In NHWC a thread's four columns are no
// neighbours.
template <bool kLast, class Body>
__device__ __forceinline__ void with_together(int together, Body body) {
  if (!kLast && together == 4) {
    body(std::integral_constant<int, 4>{});
  } else if (!kLast && together == 2) {
    body(std::integral_constant<int, 2>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
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
