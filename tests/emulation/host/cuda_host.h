// CUDA's device language for a host compiler: what csrc/conv/cuda/portable.h asks for where there
// is no nvcc. The types, conversions and enumerations are those of the CUDA headers themselves.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#undef __shared__
#undef __launch_bounds__
#define __shared__ static_shared_memory_is_not_imitated  // PYPHASE_SHARED is
#define __launch_bounds__(...)

inline constexpr int warpSize = 32;
extern uint3 threadIdx, blockIdx;  // of the thread that runs
extern dim3 blockDim, gridDim;

namespace cuda_host {

// Where a thread waits, for reports and to tell that threads wait at different places.
struct Site {
  const char *file;
  int line;
  constexpr Site(const char *file_name, int line_number) : file(file_name), line(line_number) {}
};

// All lanes of a mask meet; the last to arrive does `work` on every lane's arguments (null for
// lanes outside the mask), the others being parked with their stacks live.
using Work = void (*)(void *const (&arguments)[32]);
enum class Order { none, memory };  // whether accesses before it happen before those after it
void meet(std::uint32_t mask, void *arguments, Work work, Order order, Site site);
void barrier(Site site);
int lane();
[[noreturn]] void fail(const char *message);

int mutant();  // the fault that is turned on, where the tests compile faults in
void *shared_memory();
void load(void *value, const void *address, int bytes);
void store(void *address, const void *value, int bytes);
void copy_async(void *shared, const void *source, int bytes, int valid_bytes);
void commit_copies();
void wait_copies(int pending);

template <class T>
void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site);
void ldmatrix(std::uint32_t *registers, const void *row, int count, bool transposed, Site site);
std::uint32_t to_tf32(float value);

// An argument of a kernel as the launch passes it: its bytes.
struct Argument {
  const void *address;
  std::size_t bytes;
};
struct Launched {
  const void *kernel;
  dim3 grid, block;
  std::size_t shared;
  const Argument *arguments;
  std::size_t count;
};
void launch(const Launched &what, const std::function<void()> &thread);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            Arguments &&...arguments) {
  static_assert(sizeof...(Parameters) > 0);
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  const auto list = std::apply(
      [](const auto &...value) {
        return std::array<Argument, sizeof...(Parameters)>{Argument{&value, sizeof(value)}...};
      },
      values);
  launch({reinterpret_cast<const void *>(kernel), grid, block, shared, list.data(), list.size()},
         [&] { std::apply(kernel, values); });
}

template <class T>
struct Shuffle {
  T mine, other;
  int source;
};

template <class T>
__attribute__((no_sanitize("thread"))) T shuffle(std::uint32_t mask, T value, int source,
                                                 Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle<T> own{value, value, source};
  const Work exchange = [](void *const(&lanes)[32]) __attribute__((no_sanitize("thread"))) {
    for (void *each : lanes) {
      if (each) {
        auto &reader = *static_cast<Shuffle<T> *>(each);
        if (!lanes[reader.source]) fail("a shuffle reads a lane outside its mask");
        reader.other = static_cast<Shuffle<T> *>(lanes[reader.source])->mine;
      }
    }
  };
  meet(mask, &own, exchange, Order::none, site);
  return own.other;
}

}  // namespace cuda_host

#define PYPHASE_HERE ::cuda_host::Site site = ::cuda_host::Site(__builtin_FILE(), __builtin_LINE())

inline void __syncthreads(PYPHASE_HERE) { ::cuda_host::barrier(site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, PYPHASE_HERE) {
  ::cuda_host::meet(mask, nullptr, nullptr, ::cuda_host::Order::memory, site);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, PYPHASE_HERE) {
  return ::cuda_host::shuffle(mask, value, source & 31, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, PYPHASE_HERE) {
  return ::cuda_host::shuffle(mask, value, (::cuda_host::lane() ^ bits) & 31, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, PYPHASE_HERE) {
  const int from = ::cuda_host::lane() - static_cast<int>(by);
  return ::cuda_host::shuffle(mask, value, from < 0 ? ::cuda_host::lane() : from, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, PYPHASE_HERE) {
  const int from = ::cuda_host::lane() + static_cast<int>(by);
  return ::cuda_host::shuffle(mask, value, from > 31 ? ::cuda_host::lane() : from, site);
}
#undef PYPHASE_HERE

#include "kernel_attributes.h"
