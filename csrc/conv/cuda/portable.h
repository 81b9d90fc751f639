// The device language of the kernels: CUDA under nvcc, else the host's imitation of it, with which
// the tests run the same source (tests/emulation/host, on the include path of the tests alone).
//
// What the imitation cannot see is written once, here or in ptx.cuh: shared memory is dynamic and
// comes from one macro, vectors are loaded and stored through one pair of functions, kernels start
// through `launch`. Arithmetic is in float: most of cuda_fp16.h's is not defined for a host.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_host.h"
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

// The block's dynamic shared memory as T *name, aligned to 16 bytes.
#if defined(__CUDACC__)
#define PYPHASE_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char pyphase_shared_bytes[]; \
  T *const name = reinterpret_cast<T *>(pyphase_shared_bytes)
#else
#define PYPHASE_SHARED(T, name) T *const name = static_cast<T *>(::cuda_host::shared_memory())
#endif

// Deliberate faults, compiled in by the tests alone to prove that they are found: in a kernel,
// `if (PYPHASE_MUTANT != 7) { __syncthreads(); }`. Numbers are unique among the kernels.
#ifndef PYPHASE_MUTANT
#define PYPHASE_MUTANT 0
#endif

namespace pyphase::conv::cuda {

// One access of sizeof(V) bytes, V being uint2, float4 and the like; the address is a multiple of
// sizeof(V).
template <class V>
__device__ __forceinline__ V load_vector(const void *address) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
#if defined(__CUDACC__)
  return *static_cast<const V *>(address);
#else
  V value;
  ::cuda_host::load(&value, address, sizeof(V));
  return value;
#endif
}

template <class V>
__device__ __forceinline__ void store_vector(void *address, const V &value) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
#if defined(__CUDACC__)
  *static_cast<V *>(address) = value;
#else
  ::cuda_host::store(address, &value, sizeof(V));
#endif
}

// Launch kernel<<<grid, block, shared, stream>>>(arguments...); cudaGetLastError() tells how.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            cudaStream_t stream, Arguments &&...arguments) {
#if defined(__CUDACC__)
  kernel<<<grid, block, shared, stream>>>(std::forward<Arguments>(arguments)...);
#else
  (void)stream;
  ::cuda_host::launch(kernel, grid, block, shared, std::forward<Arguments>(arguments)...);
#endif
}

// Where a warp-wide operation stands in the source; nothing on the device.
#if defined(__CUDACC__)
struct Site {
  __device__ constexpr Site(const char *, int) {}
};
#else
using Site = ::cuda_host::Site;
#endif

}  // namespace pyphase::conv::cuda
