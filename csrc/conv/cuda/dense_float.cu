// The dense kernels in float32.
#include "dense_run.cuh"

namespace pyphase::conv::cuda {

template struct DenseKernels<Scalar::f32>;

}  // namespace pyphase::conv::cuda
