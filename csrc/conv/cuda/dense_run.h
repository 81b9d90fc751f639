// The launches of one dtype's dense kernels: one translation unit for each dtype.
#pragma once

#include "dense_args.h"
#include "kernels.h"

namespace pyphase::conv::cuda {

// float, __half or __nv_bfloat16, named by a tag so that no CUDA header is needed here.
template <Scalar kScalar>
struct DenseKernels {
  static Status pack(const DensePackArgs &args, const Launch &launch, Stream);
  static Status pair(const DensePairArgs &args, const Launch &launch, Stream);
  static Status gradient(const DenseGradientArgs &args, const Launch &launch, Stream);
  static Status weight(const DenseWeightArgs &args, const Launch &launch, Stream);
  static Status reduce(const DenseReduceArgs &args, const Launch &launch, Stream);
};

}  // namespace pyphase::conv::cuda
