// The smallest kernels that should set off each detector, and ones that should not.
#include <stdexcept>
#include <string>
#include <string_view>

#include "ptx.cuh"

#if !defined(__CUDACC__)
#include "entry.h"
#endif

namespace pyphase::conv::cuda {

constexpr unsigned kAll = 0xffffffffu;

__global__ void good_copy(const int *in, int *out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = in[i];
}
__global__ void good_barrier(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  __syncthreads();
  out[t] = tile[63 - t];
  __syncthreads();
  tile[63 - t] = 1;
}
__global__ void good_warp(const int *in, int *out) {  // within a warp, __syncwarp() is enough
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  __syncwarp();
  const int other = tile[t ^ 1];
  __syncwarp();
  tile[t ^ 1] = other;
  out[t] = other;
}
template <bool kSynced>  // 40 threads: the last warp has 8; lanes part on the way
__device__ void part_warp(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x, i = 40 * blockIdx.x + t;
  tile[t] = in[i < 64 ? i : 63];
  for (unsigned turn = 0; turn < (t & 3); ++turn) tile[t] += in[turn] - static_cast<int>(turn);
  if (kSynced) __syncwarp();
  if (i < 64) out[i] = tile[t ^ 1];
}
__global__ void good_part_warp(const int *in, int *out) { part_warp<true>(in, out); }
__global__ void part_warp_race(const int *in, int *out) { part_warp<false>(in, out); }
__global__ void good_async(const int *in, int *out) {  // two groups, the older one waited for
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  copy_async<4>(tile + t, in + t, true);
  commit_copies();
  copy_async<4>(tile + 64 + t, in + t, false);
  commit_copies();
  wait_copies<1>();
  __syncthreads();
  const int first = tile[63 - t];
  wait_copies<0>();
  __syncthreads();
  out[t] = first + tile[64 + (t ^ 1)];
}
__global__ void good_matrix(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  store_vector(tile + 4 * t, load_vector<uint4>(in + 4 * (t & 15)));
  __syncthreads();
  std::uint32_t part[4];
  ldmatrix<4, false>(part, tile + 4 * (t & 31));
  out[t] = static_cast<int>(part[0]);
}

__global__ void beyond_end(const int *in, int *out, int n) {  // one past a tensor
  const int i = static_cast<int>(threadIdx.x);
  if (i <= n) out[i] = in[i];
}
__global__ void beyond_shared(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t + 1] = in[t];
  __syncthreads();
  out[t] = tile[t + 1];
}
__global__ void uninitialised(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  if (t) tile[t] = in[t];
  __syncthreads();
  out[t] = tile[t];
}
__global__ void read_race(const int *in, int *out) {  // a shuffle orders nothing
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  const int zero = __shfl_sync(kAll, in[t], 0) * 0;
  out[t] = zero + tile[t ^ 1];
}
__global__ void write_race(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t & 31] = in[t];
  __syncthreads();
  out[t] = tile[t & 31];
}
__global__ void late_write(const int *in, int *out) {  // over what others may still read
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  __syncthreads();
  const int other = tile[(t + 40) & 63];
  tile[t] = other;
  out[t] = other;
}
__global__ void late_write_third(const int *in, int *out) {  // three readers, the first one loses
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  __syncthreads();
  int sum = 0;
  if (t < 4) sum = tile[0];
  if (t == 3) tile[0] = sum + 1;
  out[t] = sum;
}
__global__ void warp_only(const int *in, int *out) {  // across warps, __syncwarp() is too little
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  tile[t] = in[t];
  __syncwarp();
  out[t] = tile[63 - t];
}
__global__ void early_wait(const int *in, int *out) {  // waits for one group too few
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  copy_async<4>(tile + t, in + t, true);
  commit_copies();
  wait_copies<1>();
  __syncthreads();
  out[t] = tile[t];
  wait_copies<0>();
}
__global__ void no_commit(const int *in, int *out) {  // copies in no group are waited for by none
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  copy_async<4>(tile + t, in + t, true);
  wait_copies<0>();
  __syncthreads();
  out[t] = tile[t];
  commit_copies();
  wait_copies<0>();
}
__global__ void reuse_in_flight(const int *in, int *out) {  // writes where a copy will land
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  copy_async<4>(tile + t, in + t, true);
  commit_copies();
  __syncthreads();
  tile[t ^ 1] = 0;
  wait_copies<0>();
  __syncthreads();
  out[t] = tile[t];
}
__global__ void exit_in_flight(const int *in, int *out) {
  PYPHASE_SHARED(int, tile);
  const unsigned t = threadIdx.x;
  out[t] = 0;
  copy_async<4>(tile + t, in + t, true);
  commit_copies();
}
__global__ void misaligned(const int *in, int *out) {
  const unsigned t = threadIdx.x;
  if (t == 0) store_vector(out + 1, load_vector<uint2>(in));
}
__global__ void deadlock(const int *in, int *out) {  // half of a warp shuffles, half waits
  const unsigned t = threadIdx.x;
  if (t < 16) {
    out[t] = __shfl_xor_sync(kAll, in[t], 1);
  } else {
    __syncthreads();
  }
}
__global__ void early_exit(const int *in, int *out) {
  const unsigned t = threadIdx.x;
  if (in[t] == 5) return;
  __syncthreads();
  out[t] = 1;
}
__global__ void divergence(const int *in, int *out) {
  const unsigned t = threadIdx.x;
  if (in[t] & 1) {
    out[t] = 1;
    __syncthreads();
  } else {
    __syncthreads();
    out[t] = 2;
  }
}
__global__ void two_writers(const int *in, int *out) { out[threadIdx.x / 2] = in[threadIdx.x]; }
__global__ void written_twice(const int *in, int *out) {
  for (int i = 0; i < 2; ++i) {
    out[threadIdx.x] = in[threadIdx.x] + i;
    __syncthreads();
  }
}
__global__ void input_written(const int *in, int *out) {
  const_cast<int *>(in)[threadIdx.x] = 1;
  out[threadIdx.x] = 1;
}
__global__ void never_written(const int *in, int *out) {
  if (threadIdx.x) out[threadIdx.x] = in[threadIdx.x];
}
__global__ void exchange(const int *in, int *out) {  // through global memory, in one launch
  out[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0 && out[1] == 12345) out[70] = 1;
}
__global__ void matrix_half(const int *in, int *out) {  // half of a warp
  float d[4] = {};
  std::uint32_t a[4] = {}, b[2] = {};
  if (in[threadIdx.x] & 1) mma<__half>(d, a, b);
  out[threadIdx.x] = static_cast<int>(d[0]);
}

// Run a kernel by name, mostly with 64 threads and 64 ints of shared memory.
void run_kernel(std::string_view which, const int *in, int *out) {
  const auto is = [&](auto kernel, const char *candidate, unsigned shared = 256) {
    if (which != candidate) return;
    launch(kernel, 1, 64, shared, nullptr, in, out);
  };
  if (which == "good_copy") launch(good_copy, 2, 64, 0, nullptr, in, out, 64);
  if (which == "good_part_warp") launch(good_part_warp, 2, 40, 160, nullptr, in, out);
  if (which == "part_warp_race") launch(part_warp_race, 2, 40, 160, nullptr, in, out);
  if (which == "beyond_end") launch(beyond_end, 1, 96, 0, nullptr, in, out, 64);
  if (which == "too_much_shared") launch(good_barrier, 1, 64, 49153, nullptr, in, out);
  if (which == "too_many_threads") launch(good_barrier, 1, 1025, 256, nullptr, in, out);
  is(good_barrier, "good_barrier");
  is(good_warp, "good_warp");
  is(good_async, "good_async", 512);
  is(good_matrix, "good_matrix", 1024);
  is(beyond_shared, "beyond_shared");
  is(uninitialised, "uninitialised");
  is(read_race, "read_race");
  is(write_race, "write_race");
  is(late_write, "late_write");
  is(late_write_third, "late_write_third");
  is(warp_only, "warp_only");
  is(early_wait, "early_wait");
  is(no_commit, "no_commit");
  is(reuse_in_flight, "reuse_in_flight");
  is(exit_in_flight, "exit_in_flight");
  is(misaligned, "misaligned");
  is(deadlock, "deadlock");
  is(early_exit, "early_exit");
  is(divergence, "divergence");
  is(two_writers, "two_writers");
  is(written_twice, "written_twice");
  is(input_written, "input_written");
  is(never_written, "never_written");
  is(exchange, "exchange");
  is(matrix_half, "matrix_half");
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error("launch error " + std::to_string(static_cast<int>(error)));
  }
}

#if !defined(__CUDACC__)
extern "C" const char *run_detector(const char *name, const int *in, int *out) {
  return cuda_host::guard([&] { run_kernel(name, in, out); });
}
#endif

}  // namespace pyphase::conv::cuda
