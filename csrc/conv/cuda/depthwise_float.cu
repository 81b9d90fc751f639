// The depthwise kernels in float32.
#include "depthwise_run.cuh"

namespace pyphase::conv::cuda {

template struct DepthwiseKernels<Scalar::f32>;

}  // namespace pyphase::conv::cuda
