// Launches of the depthwise kernels of one dtype; included by depthwise_{float,half,bfloat16}.cu.
#pragma once

#include "depthwise_backward.cuh"
#include "depthwise_forward.cuh"
#include "depthwise_general.cuh"
#include "depthwise_launch.h"
#include "depthwise_march_backward.cuh"
#include "depthwise_run.h"
#include "start.cuh"

namespace pyphase::conv::cuda {

template <class T, bool kLast, int... kOf>
Status start_march(const MarchArgs &args, const Launch &launch_, Stream stream) {
  if constexpr (sizeof...(kOf) == 1) {
    if (launch_.choice[kActive]) {
      return start(depthwise_march<T, kLast, true, kOf...>, launch_, args, stream);
    }
  }
  return start(depthwise_march<T, kLast, false, kOf...>, launch_, args, stream);
}

template <class T, bool kLast>
Status choose_march(const MarchArgs &args, const Launch &launch_, Stream stream) {
  switch (launch_.choice[kSizes]) {
    case 3:
      return start_march<T, kLast, 3>(args, launch_, stream);
    case 5:
      return start_march<T, kLast, 5>(args, launch_, stream);
    case 7:
      return start_march<T, kLast, 7>(args, launch_, stream);
    case 11:
      return start_march<T, kLast, 11>(args, launch_, stream);
    case 19:
      return start_march<T, kLast, 19>(args, launch_, stream);
    case 21:
      return start_march<T, kLast, 21>(args, launch_, stream);
    default:
      return start_march<T, kLast, 21, 11, 7>(args, launch_, stream);
  }
}

template <Scalar kScalar>
Status DepthwiseKernels<kScalar>::march(const MarchArgs &args, bool channels_last,
                                        const Launch &launch_, Stream stream) {
  using T = ScalarType<kScalar>;
  return channels_last ? choose_march<T, true>(args, launch_, stream)
                       : choose_march<T, false>(args, launch_, stream);
}

template <class T, bool kLast>
Status choose_march_backward(const MarchArgs &args, const Launch &launch_, Stream stream) {
  switch (launch_.choice[kSizes]) {
    case 3:
      return start(depthwise_march_backward<T, kLast, 3>, launch_, args, stream);
    case 5:
      return start(depthwise_march_backward<T, kLast, 5>, launch_, args, stream);
    case 7:
      return start(depthwise_march_backward<T, kLast, 7>, launch_, args, stream);
    case 11:
      return start(depthwise_march_backward<T, kLast, 11>, launch_, args, stream);
    case 21:
      return start(depthwise_march_backward<T, kLast, 21>, launch_, args, stream);
    default:
      return start(depthwise_march_backward<T, kLast, 21, 11, 7>, launch_, args, stream);
  }
}

template <Scalar kScalar>
Status DepthwiseKernels<kScalar>::march_backward(const MarchArgs &args, bool channels_last,
                                                 const Launch &launch_, Stream stream) {
  using T = ScalarType<kScalar>;
  return channels_last ? choose_march_backward<T, true>(args, launch_, stream)
                       : choose_march_backward<T, false>(args, launch_, stream);
}

template <Scalar kScalar>
Status DepthwiseKernels<kScalar>::general(const GeneralArgs &args, const Launch &launch_,
                                          Stream stream) {
  return start(depthwise_general<ScalarType<kScalar>>, launch_, args, stream);
}

template <Scalar kScalar>
Status DepthwiseKernels<kScalar>::gradient(const GeneralArgs &args, const Launch &launch_,
                                           Stream stream) {
  return start(depthwise_gradient<ScalarType<kScalar>>, launch_, args, stream);
}

template <Scalar kScalar>
Status DepthwiseKernels<kScalar>::sum(const SumArgs &args, const Launch &launch_, Stream stream) {
  return start(depthwise_sum<ScalarType<kScalar>>, launch_, args, stream);
}

}  // namespace pyphase::conv::cuda
