// Vectors of one width per instruction set, by the compiler's vector extensions.
//
// Each file of kernels is compiled once per instruction set, with PYPHASE_ISA naming a namespace of
// its own and PYPHASE_VECTOR_BYTES its width. A width that the machine lacks still works: the
// compiler splits the vector.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX__) && PYPHASE_VECTOR_BYTES >= 32
#define PYPHASE_STREAMS 1
#include <immintrin.h>
#endif
#if defined(__AVX2__) && PYPHASE_VECTOR_BYTES == 32
#define PYPHASE_AVX2 1
#endif

#define PYPHASE_INLINE inline __attribute__((always_inline))

namespace pyphase::conv::PYPHASE_ISA {

constexpr int kVectorBytes = PYPHASE_VECTOR_BYTES;

// The standard library's own functions must not be compiled here: the linker keeps one copy of
// each, perhaps the one for an instruction set that this machine lacks.
PYPHASE_INLINE constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
PYPHASE_INLINE constexpr std::int64_t larger(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}
template <class T>
PYPHASE_INLINE void set_zero(T *to, std::int64_t count) {
  if (count > 0) {
    std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(T));
  }
}
template <class T>
PYPHASE_INLINE void move(const T *from, std::int64_t count, T *to) {
  std::memmove(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
concept Real = std::is_floating_point_v<T>;

template <Real T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  typedef T Loose __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  using Mask = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef Mask Index __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::Type;
template <class T>
using Index = typename VectorOf<T>::Index;

template <Real T>
PYPHASE_INLINE Vec<T> load(const T *p) {
  return *reinterpret_cast<const typename VectorOf<T>::Loose *>(p);
}

template <Real T>
PYPHASE_INLINE void store(T *p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::Loose *>(p) = v;
}

// Bytes that an operation reads and writes, from which on a result is not worth a place in the last
// cache: it would be read from memory first, and would drive out what is read.
constexpr std::int64_t kPastCache = 8 * 1024 * 1024;

// To memory past the caches, where the machine can; p is aligned to a vector.
template <Real T>
PYPHASE_INLINE void stream(T *p, Vec<T> v) {
#ifdef PYPHASE_STREAMS
  typedef double Part __attribute__((vector_size(32)));
  Part parts[kVectorBytes / 32];
  std::memcpy(parts, &v, sizeof(parts));
#pragma GCC unroll 2
  for (int i = 0; i < kVectorBytes / 32; ++i) {
    _mm256_stream_pd(reinterpret_cast<double *>(p) + 4 * i, parts[i]);
  }
#else
  store(p, v);
#endif
}

// Has what was streamed be seen by other threads before what is stored next.
PYPHASE_INLINE void finish_streams() {
#ifdef PYPHASE_STREAMS
  _mm_sfence();
#endif
}

template <class T>
PYPHASE_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// Rounds to the contraction of the multiplication with the addition where the machine has one.
template <class T>
PYPHASE_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return a * b + c;
}

// ---- 16-bit scalars, widened on load and rounded to nearest even on store ----------------------

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

constexpr int kFloats = kLanes<float>;
typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint16_t LooseHalves
    __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

PYPHASE_INLINE Words widen(const void *p) {
  return __builtin_convertvector(*static_cast<const LooseHalves *>(p), Words);
}

PYPHASE_INLINE void narrow(void *p, Words bits) {
  *static_cast<LooseHalves *>(p) = __builtin_convertvector(bits, Halves);
}

PYPHASE_INLINE Words select(Words mask, Words yes, Words no) { return (mask & yes) | (~mask & no); }

PYPHASE_INLINE Vec<float> load(const BFloat16 *p) {
  return reinterpret_cast<Vec<float>>(widen(p) << 16);
}

PYPHASE_INLINE void store(BFloat16 *p, Vec<float> v) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const Words is_nan = reinterpret_cast<Words>(v != v);
  narrow(p, select(is_nan, (bits >> 16) | 0x40U, rounded));
}

#ifdef PYPHASE_AVX2
PYPHASE_INLINE Vec<float> load(const Float16 *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}

PYPHASE_INLINE void store(Float16 *p, Vec<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#else
// The exponent is moved by a multiplication with 2^112, which also makes subnormals exact.
PYPHASE_INLINE Vec<float> load(const Float16 *p) {
  const Words half = widen(p);
  const Words magnitude = (half & 0x7fffU) << 13;
  const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Vec<float>>(magnitude) * 0x1p112f);
  const Words special = reinterpret_cast<Words>((half & 0x7c00U) == 0x7c00U);  // infinity, NaN
  return reinterpret_cast<Vec<float>>(select(special, magnitude | 0x7f800000U, scaled) |
                                      ((half & 0x8000U) << 16));
}

PYPHASE_INLINE void store(Float16 *p, Vec<float> v) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words sign = (bits >> 16) & 0x8000U;
  const Words magnitude = bits & 0x7fffffffU;
  // Below 2^-14 the half is subnormal: an addition of 0.5 aligns and rounds its bits.
  const Words subnormal =
      reinterpret_cast<Words>(reinterpret_cast<Vec<float>>(magnitude) + 0.5f) - 0x3f000000U;
  const Words normal = (magnitude + 0xc8000fffU + ((magnitude >> 13) & 1U)) >> 13;
  const Words is_small = reinterpret_cast<Words>(magnitude < 0x38800000U);
  const Words overflows = reinterpret_cast<Words>(magnitude >= 0x477ff000U);
  const Words is_nan = reinterpret_cast<Words>(magnitude > 0x7f800000U);
  Words half = select(is_small, subnormal, normal);
  half = select(overflows, Words{} + 0x7c00U, half);
  half = select(is_nan, Words{} + 0x7e00U, half);
  narrow(p, half | sign);
}
#endif

// The type that a scalar is computed in.
template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

// One element, through a vector: only at edges.
template <class S>
PYPHASE_INLINE Compute<S> load_one(const S *p) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    return *p;
  } else {
    S lanes[kFloats] = {};
    lanes[0] = *p;
    return load(lanes)[0];
  }
}

template <class S>
PYPHASE_INLINE void store_one(S *p, Compute<S> value) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    *p = value;
  } else {
    S lanes[kFloats];
    store(lanes, broadcast(value));
    *p = lanes[0];
  }
}

// The first `count` lanes, which may be none or fewer; the others are zero.
template <class S>
PYPHASE_INLINE Vec<Compute<S>> load_part(const S *p, std::int64_t count) {
  using T = Compute<S>;
  Vec<T> out{};
  for (int lane = 0; lane < kLanes<T> && lane < count; ++lane) {
    out[lane] = load_one(p + lane);
  }
  return out;
}

#ifdef PYPHASE_AVX2
PYPHASE_INLINE Vec<float> load_part(const float *p, std::int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p,
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes));
}
#endif

// ---- transposition of a square of vectors ------------------------------------------------------

namespace detail {

// Each lane of the result by its source: lanes of b follow those of a.
template <class T, class Source, std::size_t... kLane>
PYPHASE_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b, Source, std::index_sequence<kLane...>) {
  return __builtin_shuffle(a, b, Index<T>{Source::at(static_cast<int>(kLane))...});
}

template <class T, class Source>
PYPHASE_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle<T>(a, b, Source{}, std::make_index_sequence<std::size_t{kLanes<T>}>{});
}

// The even (or odd) blocks of `kSize` lanes of a and b, in turn.
template <class T, int kSize, bool kOdd>
struct Blocks {
  static constexpr int at(int lane) {
    const bool from_b = (lane / kSize) % 2 == 1;
    return lane + (kOdd ? kSize : 0) + (from_b ? kLanes<T> - kSize : 0);
  }
};

// Inside each 16 bytes: the lower (or upper) halves of a and b, lane by lane in turn.
template <class T, bool kUpper>
struct Interleave {
  static constexpr int kGroup = 16 / static_cast<int>(sizeof(T));
  static constexpr int at(int lane) {
    const int in_group = lane % kGroup, group = lane - in_group;
    return group + in_group / 2 + (kUpper ? kGroup / 2 : 0) + (in_group % 2) * kLanes<T>;
  }
};

// Lanes kShift and up of a and b together.
template <class T, int kShift>
struct Shift {
  static constexpr int at(int lane) { return lane + kShift; }
};

// Squares of `kSize` vectors, exchanged across the diagonal of a square twice as large.
template <class T, int kSize>
PYPHASE_INLINE void exchange(Vec<T> *v) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if ((i / kSize) % 2 == 0) {
      const Vec<T> a = v[i], b = v[i + kSize];
      v[i] = shuffle<T, Blocks<T, kSize, false>>(a, b);
      v[i + kSize] = shuffle<T, Blocks<T, kSize, true>>(a, b);
    }
  }
}

}  // namespace detail

// Two vectors side by side, and what lies across their border.
template <class T>
struct Neighbours {
  Vec<T> a, b;
  Neighbours() = default;
  PYPHASE_INLINE Neighbours(Vec<T> first, Vec<T> second) : a(first), b(second) {}

  // Lanes kShift, kShift + 1, ... of both together, 0 < kShift <= lanes.
  template <int kShift>
  PYPHASE_INLINE Vec<T> shifted() const {
    if constexpr (kShift == kLanes<T>) {
      return b;
    } else {
      return detail::shuffle<T, detail::Shift<T, kShift>>(a, b);
    }
  }
};

#ifdef PYPHASE_AVX2
// GCC takes three instructions for each; two share the vectors' middle.
template <>
struct Neighbours<float> {
  Vec<float> a, b, middle;
  Neighbours() = default;
  PYPHASE_INLINE Neighbours(Vec<float> first, Vec<float> second)
      : a(first), b(second), middle(_mm256_permute2f128_ps(first, second, 0x21)) {}

  template <int kShift>
  PYPHASE_INLINE Vec<float> shifted() const {
    if constexpr (kShift % 4 == 0) {
      return kShift == 0 ? a : kShift == 4 ? middle : b;
    } else {
      const __m256i low = _mm256_castps_si256(kShift < 4 ? a : middle);
      const __m256i high = _mm256_castps_si256(kShift < 4 ? middle : b);
      return _mm256_castsi256_ps(_mm256_alignr_epi8(high, low, 4 * (kShift % 4)));
    }
  }
};
#endif

// Squares of 16 bytes at first, with shuffles that stay inside 16 bytes; then ever larger ones.
template <class T>
PYPHASE_INLINE void transpose(Vec<T> *v) {
  using detail::Blocks;
  using detail::Interleave;
  using detail::shuffle;
  constexpr int kSquare = 16 / static_cast<int>(sizeof(T));
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; i += kSquare) {
    if constexpr (kSquare == 2) {
      const Vec<T> a = v[i], b = v[i + 1];
      v[i] = shuffle<T, Interleave<T, false>>(a, b);
      v[i + 1] = shuffle<T, Interleave<T, true>>(a, b);
    } else {
      const Vec<T> low01 = shuffle<T, Interleave<T, false>>(v[i], v[i + 1]);
      const Vec<T> high01 = shuffle<T, Interleave<T, true>>(v[i], v[i + 1]);
      const Vec<T> low23 = shuffle<T, Interleave<T, false>>(v[i + 2], v[i + 3]);
      const Vec<T> high23 = shuffle<T, Interleave<T, true>>(v[i + 2], v[i + 3]);
      v[i] = shuffle<T, Blocks<T, 2, false>>(low01, low23);
      v[i + 1] = shuffle<T, Blocks<T, 2, true>>(low01, low23);
      v[i + 2] = shuffle<T, Blocks<T, 2, false>>(high01, high23);
      v[i + 3] = shuffle<T, Blocks<T, 2, true>>(high01, high23);
    }
  }
  if constexpr (kLanes<T> > kSquare) {
    detail::exchange<T, kSquare>(v);
  }
  if constexpr (kLanes<T> > 2 * kSquare) {
    detail::exchange<T, 2 * kSquare>(v);
  }
  if constexpr (kLanes<T> > 4 * kSquare) {
    detail::exchange<T, 4 * kSquare>(v);
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
