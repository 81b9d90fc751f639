// The convolution of one plane's rows, read where they lie in the image.
//
// Neighbouring vectors are in registers, and what each tap needs is shifted out of two of them;
// outside of the image they are zero. So no padded copy is made, and the alignment of the rows does
// not matter. Loads and shuffles share the work: inside of a row some taps are loaded. Where the
// weights don't fit the registers and are loaded, too, these are only those next to the middle one;
// such a kernel is long, and has four sums, which wait for themselves less than two. For centred
// kernels of the usual lengths; row_pass.h has the others.
#pragma once

#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

// `count` rows of `columns` outputs, of which the last vector is written whole:
//   dst[i] = bias + sum over t < taps of weights[t] * src[i + t - taps / 2],
// each weight filling a vector.
// A row of src has `available` pixels from src on, and `before` pixels before it; others count as
// zero.
template <class S>
struct StraightRows {
  using T = Compute<S>;
  const S *src;
  T *dst;
  std::int64_t src_pitch, dst_pitch, count, columns, available, before;
  const T *weights;
  Vec<T> bias;
  std::int64_t ahead;  // elements from what is read to what should be on its way to the cache
};

namespace detail {

// The vectors that the middle one's taps reach, and those after them.
template <class T, int kTaps>
struct Reach {
  static constexpr int kHalf = kTaps / 2;
  static constexpr int kSide = (kHalf + kLanes<T> - 1) / kLanes<T>;
  static constexpr int kLast = 2 * kSide - 1;
  Neighbours<T> pairs[2 * kSide];

  PYPHASE_INLINE explicit Reach(Vec<T> first) {
#pragma GCC unroll 8
    for (int i = 0; i <= kLast; ++i) {
      pairs[i] = Neighbours<T>(Vec<T>{}, first);
    }
  }

  PYPHASE_INLINE void append(Vec<T> last) {
#pragma GCC unroll 8
    for (int i = 0; i < kLast; ++i) {
      pairs[i] = pairs[i + 1];
    }
    pairs[kLast] = Neighbours<T>(pairs[kLast].b, last);
  }

  // The vector at `at`, inside of a row.
  template <class S>
  PYPHASE_INLINE void append(const S *at) {
    append(load(at));
#ifdef PYPHASE_AVX2
    if constexpr (std::is_same_v<S, float>) {  // a load costs less than a shuffle across 16 bytes
      pairs[kLast].middle = load(at - 4);
    }
#endif
  }
};

constexpr int kLongTaps = 9;

// The sums of a vector of outputs. kLoads: all that its taps read lies inside of the row.
template <int kTaps, bool kLoads, class S, class T>
PYPHASE_INLINE Vec<T> straight_vector(const S *at, const Reach<T, kTaps> &reach, const Vec<T> *w,
                                      Vec<T> bias) {
  constexpr int kHalf = kTaps / 2, kSide = Reach<T, kTaps>::kSide;
  constexpr int kSums = kTaps < kLongTaps ? 2 : 4;
  Vec<T> sums[kSums] = {bias};
  const auto add = [&]<int kTap>(std::integral_constant<int, kTap>) {
    constexpr int kFrom = kSide * kLanes<T> + kTap - kHalf;
    constexpr int kAway = kTap < kHalf ? kHalf - kTap : kTap - kHalf;
    Vec<T> in;
    if constexpr (kLoads && (kTaps < kLongTaps ? kAway % 2 == 1 : kAway == 1)) {
      in = load(at + kTap - kHalf);
    } else if constexpr (kFrom == 2 * kSide * kLanes<T>) {
      in = reach.pairs[reach.kLast].b;
    } else {
      in = reach.pairs[kFrom / kLanes<T>].template shifted<kFrom % kLanes<T>>();
    }
    sums[kTap % kSums] = fma<T>(w[kTap], in, sums[kTap % kSums]);
  };
  [&]<int... kTap>(std::integer_sequence<int, kTap...>) {
    (add(std::integral_constant<int, kTap>{}), ...);
  }(std::make_integer_sequence<int, kTaps>{});
  if constexpr (kSums == 4) {
    sums[0] += sums[2];
    sums[1] += sums[3];
  }
  return sums[0] + sums[1];
}

template <int kTaps, class S, class T = Compute<S>>
__attribute__((noinline)) void straight_rows(const StraightRows<S> &rows) {
  constexpr std::int64_t kWidth = kLanes<T>, kSide = Reach<T, kTaps>::kSide;
  Vec<T> w[kTaps];
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) {
    w[t] = load(rows.weights + t * kWidth);
  }
  const Vec<T> bias = rows.bias;
  const std::int64_t vectors = (rows.columns + kWidth - 1) / kWidth;
  // Vectors whose neighbours to the right lie whole inside the row, too.
  const std::int64_t whole = smaller(vectors, rows.available / kWidth - kSide);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const S *from = rows.src + r * rows.src_pitch;
    T *to = rows.dst + r * rows.dst_pitch;
    const auto vector = [&rows, from](std::int64_t i) {
      const std::int64_t first = i * kWidth;
      if (first + rows.before < 0) {
        return Vec<T>{};
      }
      return first + kWidth <= rows.available ? load(from + first)
                                              : load_part(from + first, rows.available - first);
    };
    Reach<T, kTaps> reach(vector(-kSide));
#pragma GCC unroll 8
    for (int i = 1; i < 2 * kSide; ++i) {
      reach.append(vector(i - kSide));
    }
    std::int64_t i = 0;
    for (; rows.before == 0 && i < smaller(kSide, vectors); ++i) {
      reach.append(vector(i + kSide));
      store(to + i * kWidth, straight_vector<kTaps, false>(from + i * kWidth, reach, w, bias));
    }
#pragma GCC unroll 2
    for (; i < whole; ++i) {
      const S *at = from + i * kWidth;
      __builtin_prefetch(at + rows.ahead, 0, 3);
      reach.append(at + kSide * kWidth);
      store(to + i * kWidth, straight_vector<kTaps, true>(at, reach, w, bias));
    }
    for (; i < vectors; ++i) {
      reach.append(vector(i + kSide));
      store(to + i * kWidth, straight_vector<kTaps, false>(from + i * kWidth, reach, w, bias));
    }
  }
}

// A kernel of one tap, as of the residual in a sum of strips.
template <class S>
void scaled_rows(const StraightRows<S> &rows) {
  using T = Compute<S>;
  constexpr std::int64_t kWidth = kLanes<T>;
  const Vec<T> weight = load(rows.weights);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const S *from = rows.src + r * rows.src_pitch;
    T *to = rows.dst + r * rows.dst_pitch;
    std::int64_t i = 0;
    for (; i + kWidth <= smaller(rows.columns, rows.available); i += kWidth) {
      store(to + i, fma<T>(weight, load(from + i), rows.bias));
    }
    for (; i < rows.columns; i += kWidth) {
      store(to + i, fma<T>(weight, load_part(from + i, rows.available - i), rows.bias));
    }
  }
}

}  // namespace detail

// The function for a kernel, or null: see above.
template <class S>
auto straight_rows(std::int64_t taps, std::int64_t pad) -> void (*)(const StraightRows<S> &) {
  if (taps != 2 * pad + 1 || pad > 2 * kLanes<Compute<S>>) {
    return nullptr;
  }
  switch (taps) {
    case 1:
      return detail::scaled_rows<S>;
    case 3:
      return detail::straight_rows<3, S>;
    case 5:
      return detail::straight_rows<5, S>;
    case 7:
      return detail::straight_rows<7, S>;
    case 9:
      return detail::straight_rows<9, S>;
    case 11:
      return detail::straight_rows<11, S>;
    case 19:
      return detail::straight_rows<19, S>;
    case 21:
      return detail::straight_rows<21, S>;
    default:
      return nullptr;
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
