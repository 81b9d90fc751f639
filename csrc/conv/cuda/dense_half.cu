// The dense kernels in float16.
#include "dense_run.cuh"

namespace pyphase::conv::cuda {

template struct DenseKernels<Scalar::f16>;

}  // namespace pyphase::conv::cuda
