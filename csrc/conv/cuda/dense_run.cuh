// Launches of the dense kernels of one dtype; included by dense_{float,half,bfloat16}.cu.
#pragma once

#include "dense_backward.cuh"
#include "dense_launch.h"
#include "dense_run.h"
#include "dense_weight.cuh"
#include "start.cuh"

namespace pyphase::conv::cuda {

template <Scalar kScalar>
Status DenseKernels<kScalar>::pack(const DensePackArgs &args, const Launch &launch_,
                                   Stream stream) {
  return start(dense_pack<ScalarType<kScalar>>, launch_, args, stream);
}

// A kernel is compiled for tensor cores, and in float32 once more for fused multiply-adds.
#define PYPHASE_START(kernel)                                              \
  using T = ScalarType<kScalar>;                                           \
  if constexpr (kScalar == Scalar::f32) {                                  \
    if (launch_.choice[kDenseMath] == static_cast<int>(DenseMath::kFma)) { \
      return start(kernel<T, true>, launch_, args, stream);                \
    }                                                                      \
  }                                                                        \
  return start(kernel<T, false>, launch_, args, stream)

template <Scalar kScalar>
Status DenseKernels<kScalar>::pair(const DensePairArgs &args, const Launch &launch_,
                                   Stream stream) {
  PYPHASE_START(dense_pair);
}

template <Scalar kScalar>
Status DenseKernels<kScalar>::gradient(const DenseGradientArgs &args, const Launch &launch_,
                                       Stream stream) {
  PYPHASE_START(dense_gradient);
}

template <Scalar kScalar>
Status DenseKernels<kScalar>::weight(const DenseWeightArgs &args, const Launch &launch_,
                                     Stream stream) {
  PYPHASE_START(dense_weight);
}

#undef PYPHASE_START

template <Scalar kScalar>
Status DenseKernels<kScalar>::reduce(const DenseReduceArgs &args, const Launch &launch_,
                                     Stream stream) {
  return start(dense_reduce<ScalarType<kScalar>>, launch_, args, stream);
}

}  // namespace pyphase::conv::cuda
