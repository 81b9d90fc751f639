// What the machine gives: multiply-adds a second, and bytes copied a second. No torch, no headers
// of the package: the benchmark's yardstick is compiled apart, for the processor that it runs on.
#include <cstddef>
#include <cstring>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
// Latency 4 or 5, two a cycle: ten in flight suffice; twelve and two constants fit 16 registers.
constexpr int kChains = 12;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

void copy_streaming(char *to, const char *from, std::size_t bytes) {
#ifdef __AVX__
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) {
    const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i *>(from + i));
    const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i *>(from + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to + i), low);
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to + i + 32), high);
  }
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace

// Flops of a round in one thread.
extern "C" int flops_a_round() { return 2 * kLanes * kChains; }

// Each thread does `rounds` rounds of independent chains a = a * b + c.
extern "C" float multiply_add(long rounds, int threads) {
  float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    Lanes a[kChains], b = {}, c = {};
    b += 0.999f;
    c += 1e-6f;
    for (int i = 0; i < kChains; i++) a[i] = c * static_cast<float>(i);
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; i++) a[i] = a[i] * b + c;
    }
    for (int i = 0; i < kChains; i++) {
      for (int lane = 0; lane < kLanes; lane++) total += a[i][lane];
    }
  }
  return total;
}

// Copies blocks of 64 KiB, each thread a contiguous share; streaming: past the caches. Both ends
// are aligned to 64 bytes.
extern "C" void copy(char *to, const char *from, std::size_t bytes, int threads, int streaming) {
  constexpr std::size_t kBlock = 1 << 16;
  const long blocks = static_cast<long>(bytes / kBlock);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long block = 0; block < blocks; block++) {
    const std::size_t at = static_cast<std::size_t>(block) * kBlock;
    if (streaming) {
      copy_streaming(to + at, from + at, kBlock);
    } else {
      std::memcpy(to + at, from + at, kBlock);
    }
  }
}
