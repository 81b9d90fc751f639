// The dense kernels in bfloat16.
#include "dense_run.cuh"

namespace pyphase::conv::cuda {

template struct DenseKernels<Scalar::bf16>;

}  // namespace pyphase::conv::cuda
