// The launches of one dtype's depthwise kernels: one translation unit for each dtype.
#pragma once

#include "depthwise_args.h"
#include "kernels.h"

namespace pyphase::conv::cuda {

// T: float, __half or __nv_bfloat16, named by a tag so that no CUDA header is needed here.
template <Scalar kScalar>
struct DepthwiseKernels {
  static Status march(const MarchArgs &args, bool channels_last, const Launch &launch, Stream);
  static Status march_backward(const MarchArgs &args, bool channels_last, const Launch &launch,
                               Stream);
  static Status general(const GeneralArgs &args, const Launch &launch, Stream);
  static Status gradient(const GeneralArgs &args, const Launch &launch, Stream);
  static Status sum(const SumArgs &args, const Launch &launch, Stream);
};

}  // namespace pyphase::conv::cuda
