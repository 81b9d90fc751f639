// All inline PTX of the kernels, each instruction one small function: tensor cores, matrix loads,
// asynchronous copies. On the host, the same function of the imitation (portable.h).
//
// Fragments, for lane = 4 g + q of a warp (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   16-bit types, K = 16, two elements a register, the lower in the lower half
//     A register r: row g + 8 (r & 1), columns 2 q + 8 (r >> 1) and the next
//     B register r: rows 2 q + 8 r and the next, column g
//   tf32, K = 8, one element a register
//     A register r: row g + 8 (r & 1), column q + 4 (r >> 1);  B register r: row q + 4 r, column g
//   C and D, float: element e at row g + 8 (e >> 1), column 2 q + (e & 1)
#pragma once

#include "portable.h"

namespace pyphase::conv::cuda {

// d += A B, A 16 x K, B K x 8, for the whole warp, K = 16, or 8 for float. T: __half,
// __nv_bfloat16, or float, whose bits below TF32's are dropped: round them with to_tf32 first.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4],
                                    const std::uint32_t (&b)[2],
                                    Site site = Site(__builtin_FILE(), __builtin_LINE())) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, __half> ||
                std::is_same_v<T, __nv_bfloat16>);
#if defined(__CUDACC__)
  (void)site;
  if constexpr (std::is_same_v<T, float>) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  ::cuda_host::mma<T>(d, a, b, site);
#endif
}

// The nearest TF32, ties away from zero, as a register of mma<float>.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
#if defined(__CUDACC__)
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  return ::cuda_host::to_tf32(value);
#endif
}

// Load Count (2 or 4) matrices of 8 x 8 16-bit elements from shared memory. Lane 8 i + j gives the
// address of row j of matrix i (16 bytes, aligned to 16; lanes from 8 Count on are not looked at).
// Register i gets elements (g, 2 q) and (g, 2 q + 1) of matrix i, or of its transpose.
template <int Count, bool Transposed>
__device__ __forceinline__ void ldmatrix(std::uint32_t *registers, const void *row,
                                         Site site = Site(__builtin_FILE(), __builtin_LINE())) {
  static_assert(Count == 2 || Count == 4);
#if defined(__CUDACC__)
  (void)site;
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Count == 4 && Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (Count == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  }
#else
  ::cuda_host::ldmatrix(registers, row, Count, Transposed, site);
#endif
}

// Start to copy Bytes (4, 8 or 16) from global to shared memory, both aligned to Bytes; zeros where
// not `valid`, and then `source` is not read, but must be some tensor's address all the same.
template <int Bytes>
__device__ __forceinline__ void copy_async(void *shared, const void *source, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#if defined(__CUDACC__)
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {  // past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(source),
                 "n"(Bytes), "r"(bytes)
                 : "memory");
  }
#else
  ::cuda_host::copy_async(shared, source, Bytes, valid ? Bytes : 0);
#endif
}

// Close this thread's group of copies started since the last one; it may be empty.
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  ::cuda_host::commit_copies();
#endif
}

// Wait until all but the latest Pending of this thread's groups have landed. Other threads see the
// copies after a barrier.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#else
  ::cuda_host::wait_copies(Pending);
#endif
}

// Neighbours in memory by one instruction, whichever of them are used: nvcc narrows or splits an
// access in C++, and a warp's narrow ones at a stride of four meet in the same banks, or write each
// sector of global memory several times.
__device__ __forceinline__ float4 load_shared(const float *address) {
#if defined(__CUDACC__)
  float4 four;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(address)))
               : "memory");
  return four;
#else
  return load_vector<float4>(address);
#endif
}

__device__ __forceinline__ void store_shared(float *address, const uint4 &words) {
#if defined(__CUDACC__)
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(address))),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
#else
  store_vector(address, words);
#endif
}

__device__ __forceinline__ void store_shared(float *address, const uint2 &words) {
#if defined(__CUDACC__)
  asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(address))),
               "r"(words.x), "r"(words.y)
               : "memory");
#else
  store_vector(address, words);
#endif
}

__device__ __forceinline__ void store_shared(float *address, std::uint32_t word) {
  store_vector(address, word);
}

__device__ __forceinline__ void store_global(void *address, const uint4 &words) {
#if defined(__CUDACC__)
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(address)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
#else
  store_vector(address, words);
#endif
}

__device__ __forceinline__ void store_global(void *address, const uint2 &words) {
#if defined(__CUDACC__)
  asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(__cvta_generic_to_global(address)),
               "r"(words.x), "r"(words.y)
               : "memory");
#else
  store_vector(address, words);
#endif
}

template <class Word>  // of 32 bits, or of 16
__device__ __forceinline__ void store_global(void *address, const Word &word) {
  store_vector(address, word);
}

}  // namespace pyphase::conv::cuda
