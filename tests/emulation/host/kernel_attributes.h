// cudaFuncSetAttribute for a kernel's own type, which the CUDA headers declare under nvcc alone.
#pragma once

#include <cuda_runtime.h>

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
