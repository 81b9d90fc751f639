// The depthwise kernels in float16.
#include "depthwise_run.cuh"

namespace pyphase::conv::cuda {

template struct DepthwiseKernels<Scalar::f16>;

}  // namespace pyphase::conv::cuda
