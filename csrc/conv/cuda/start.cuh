// How every kernel starts: by a launch of the plan, in the type of a scalar.
#pragma once

#include "kernels.h"
#include "portable.h"

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

}  // namespace pyphase::conv::cuda
