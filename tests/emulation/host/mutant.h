// The number of a deliberate fault under nvcc: a mark that the tests replace in the PTX, so that
// one compilation serves all faults.
#pragma once

#include <cuda_runtime.h>

__device__ __forceinline__ int pyphase_mutant() {
  int number;
  asm("mov.u32 %0, 0x5afe;" : "=r"(number));
  return number;
}
