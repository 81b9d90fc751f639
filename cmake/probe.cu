// What the kernels need of nvcc: C++20, bfloat16 and float16 types.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <concepts>

template <std::floating_point T>
__global__ void convert(const T *from, __nv_bfloat16 *to, __half *other) {
  to[threadIdx.x] = __float2bfloat16(from[threadIdx.x]);
  other[threadIdx.x] = __float2half(from[threadIdx.x]);
}

int main() {
  convert<float><<<1, 1>>>(nullptr, nullptr, nullptr);
  return 0;
}
