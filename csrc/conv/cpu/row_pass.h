// The convolution of one plane's row, with neighbouring pixels in the lanes of a vector.
//
// An input shifted by s lanes serves the taps s, s + W, s + 2W, ... of neighbouring vectors (W
// lanes in a vector), so that long kernels load little. A shifted load that crosses a cache line
// takes two turns: with 32-byte vectors those are made in registers from two aligned ones.
#pragma once

#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

// The vectors of a row that are in registers at once; the taps s + q * W of one shift, at most
// kShiftTaps: 8 sums, 4 weights and 3 vectors to shift fill 15 registers.
constexpr int kRowVectors = 8;
constexpr int kShiftTaps = 4;

// `count` rows of whole vectors of outputs:
//   dst[i] = bias + sum over t < taps of weights[t] * src[i + t], each weight filling a vector.
// A row of src has taps - 1 more pixels than outputs, rounded up to a vector, and a vector to
// spare.
template <class T>
struct Rows {
  const T *src;
  T *dst;
  std::int64_t src_pitch, dst_pitch, count, vectors;
  const T *weights;
  std::int64_t taps;
  Vec<T> bias;
};

namespace detail {

#ifdef PYPHASE_AVX2
PYPHASE_INLINE Vec<float> middle(Vec<float> a, Vec<float> b) {
  return _mm256_permute2f128_ps(a, b, 0x21);
}

// Lanes kShift to kShift + 7 of a and b together, m being their middle().
template <int kShift>
PYPHASE_INLINE Vec<float> shifted(Vec<float> a, Vec<float> m, Vec<float> b) {
  const __m256i low = _mm256_castps_si256(kShift < 4 ? a : m);
  const __m256i high = _mm256_castps_si256(kShift < 4 ? m : b);
  if constexpr (kShift % 4 == 0) {
    return kShift == 0 ? a : m;
  } else {
    return _mm256_castsi256_ps(_mm256_alignr_epi8(high, low, 4 * (kShift % 4)));
  }
}
#endif

// Vector `index` of a row that begins on a cache line, shifted by kShift < W lanes.
template <int kShift, class T>
PYPHASE_INLINE Vec<T> shifted_vector(const T *row, int index) {
  const T *at = row + index * kLanes<T>;
#ifdef PYPHASE_AVX2
  if constexpr (std::is_same_v<T, float> && kShift > 0) {
    if (index % 2 == 1) {
      const Vec<T> a = load(at), b = load(at + kLanes<T>);
      return shifted<kShift>(a, middle(a, b), b);
    }
  }
#endif
  return load(at + kShift);
}

template <int kShift, int kTaps, int kCount, class T>
PYPHASE_INLINE void add_shift(Vec<T> (&sums)[kCount], const T *row, const T *weights) {
  Vec<T> w[kTaps];
#pragma GCC unroll 8
  for (int q = 0; q < kTaps; ++q) {
    w[q] = load(weights + (kShift + q * kLanes<T>)*kLanes<T>);
  }
#pragma GCC unroll 32
  for (int i = 0; i < kCount + kTaps - 1; ++i) {
    const Vec<T> in = shifted_vector<kShift>(row, i);
#pragma GCC unroll 8
    for (int q = 0; q < kTaps; ++q) {
      if (i - q >= 0 && i - q < kCount) {
        sums[i - q] = fma<T>(w[q], in, sums[i - q]);
      }
    }
  }
}

// Shifts kShift and up, of a piece of the kernel with `taps` taps.
template <int kShift, int kCount, class T>
PYPHASE_INLINE void add_shifts(Vec<T> (&sums)[kCount], const T *row, const T *weights,
                               std::int64_t taps) {
  if constexpr (kShift < kLanes<T>) {
    if (taps > kShift + 3 * kLanes<T>) {
      add_shift<kShift, 4>(sums, row, weights);
    } else if (taps > kShift + 2 * kLanes<T>) {
      add_shift<kShift, 3>(sums, row, weights);
    } else if (taps > kShift + kLanes<T>) {
      add_shift<kShift, 2>(sums, row, weights);
    } else if (taps > kShift) {
      add_shift<kShift, 1>(sums, row, weights);
    } else {
      return;
    }
    add_shifts<kShift + 1>(sums, row, weights, taps);
  }
}

template <int kCount, class T>
PYPHASE_INLINE void row_vectors(const T *row, T *out, std::int64_t blocks, const T *weights,
                                std::int64_t taps, Vec<T> bias) {
  constexpr std::int64_t kPiece = kShiftTaps * kLanes<T>;
  for (std::int64_t block = 0; block < blocks; ++block) {
    Vec<T> sums[kCount];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      sums[i] = bias;
    }
    for (std::int64_t first = 0; first < taps; first += kPiece) {
      add_shifts<0>(sums, row + first, weights + first * kLanes<T>, taps - first);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      store(out + i * kLanes<T>, sums[i]);
    }
    row += kCount * kLanes<T>;
    out += kCount * kLanes<T>;
  }
}

#ifdef PYPHASE_AVX2
// A kernel of at most 8 taps, in pairs of vectors: the two aligned vectors that the odd one is made
// of, and their middle, are loaded once for all taps.
template <int kTap, int kTaps>
PYPHASE_INLINE void add_pair(const float *row, Vec<float> &even, Vec<float> &odd, Vec<float> a,
                             Vec<float> m, Vec<float> b, const Vec<float> *w) {
  if constexpr (kTap < kTaps) {
    even = fma<float>(w[kTap], load(row + kTap), even);
    odd = fma<float>(w[kTap], shifted<kTap>(a, m, b), odd);
    add_pair<kTap + 1, kTaps>(row, even, odd, a, m, b, w);
  }
}

template <int kTaps>
void row_pairs(const Rows<float> &rows) {
  Vec<float> w[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    w[t] = load(rows.weights + t * 8);
  }
  const Vec<float> bias = rows.bias;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float *from = rows.src + r * rows.src_pitch;
    float *to = rows.dst + r * rows.dst_pitch;
    std::int64_t left = rows.vectors;
    for (; left >= 2; left -= 2) {
      Vec<float> even = bias, odd = bias;
      const Vec<float> a = load(from + 8), b = load(from + 16);
      add_pair<0, kTaps>(from, even, odd, a, middle(a, b), b, w);
      store(to, even);
      store(to + 8, odd);
      from += 16;
      to += 16;
    }
    if (left == 1) {
      Vec<float> sum = bias;
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        sum = fma<float>(w[t], load(from + t), sum);
      }
      store(to, sum);
    }
  }
}
#endif

template <class T>
void long_rows(const Rows<T> &rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const T *from = rows.src + r * rows.src_pitch;
    T *to = rows.dst + r * rows.dst_pitch;
    std::int64_t left = rows.vectors;
    const auto blocks = [&]<int kCount>(std::integral_constant<int, kCount>) {
      const std::int64_t count = left / kCount;
      row_vectors<kCount>(from, to, count, rows.weights, rows.taps, rows.bias);
      from += count * kCount * kLanes<T>;
      to += count * kCount * kLanes<T>;
      left -= count * kCount;
    };
    blocks(std::integral_constant<int, kRowVectors>{});
    blocks(std::integral_constant<int, 4>{});
    blocks(std::integral_constant<int, 2>{});
    blocks(std::integral_constant<int, 1>{});
  }
}

}  // namespace detail

template <class T>
void convolve_rows(const Rows<T> &rows) {
#ifdef PYPHASE_AVX2
  if constexpr (std::is_same_v<T, float>) {
    switch (rows.taps) {
      case 1:
        return detail::row_pairs<1>(rows);
      case 2:
        return detail::row_pairs<2>(rows);
      case 3:
        return detail::row_pairs<3>(rows);
      case 4:
        return detail::row_pairs<4>(rows);
      case 5:
        return detail::row_pairs<5>(rows);
      case 6:
        return detail::row_pairs<6>(rows);
      case 7:
        return detail::row_pairs<7>(rows);
      case 8:
        return detail::row_pairs<8>(rows);
      default:
        break;
    }
  }
#endif
  detail::long_rows(rows);
}

}  // namespace pyphase::conv::PYPHASE_ISA
