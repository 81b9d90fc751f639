// The depthwise kernels in bfloat16.
#include "depthwise_run.cuh"

namespace pyphase::conv::cuda {

template struct DepthwiseKernels<Scalar::bf16>;

}  // namespace pyphase::conv::cuda
