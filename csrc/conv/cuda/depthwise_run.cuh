// Launches of the depthwise kernels of one dtype; included by depthwise_{float,half,bfloat16}.cu.
#pragma once

#include "depthwise_backward.cuh"
#include "depthwise_forward.cuh"
#include "depthwise_general.cuh"
#include "depthwise_launch.h"
#include "depthwise_run.h"

namespace pyphase::conv::cuda {

template <Scalar kScalar>
using ScalarType =
    std::conditional_t<kScalar == Scalar::f32, float,
                       std::conditional_t<kScalar == Scalar::f16, __half, __nv_bfloat16>>;

template <class Args>
Status start(void (*kernel)(const Args), const Launch &launch_, const Args &args, Stream stream) {
  if (launch_.shared > 48 * 1024) {  // more is asked for kernel by kernel
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(launch_.shared));
    if (error != cudaSuccess) {
      return {static_cast<int>(error), launch_.kernel};
    }
  }
  launch(kernel, dim3(launch_.grid[0], launch_.grid[1], launch_.grid[2]),
         dim3(launch_.block[0], launch_.block[1], launch_.block[2]), launch_.shared,
         static_cast<cudaStream_t>(stream), args);
  return {static_cast<int>(cudaGetLastError()), launch_.kernel};
}

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
