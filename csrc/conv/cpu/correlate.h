// The gradient of a one-dimensional convolution's weights: sums of products over whole vectors.
//
// The sums of a chunk of taps stay in registers over all lines; an input that is loaded once meets
// the kAnchors gradients that use it: 11 sums, 4 gradients and an input fill the 16 registers of
// AVX2.
#pragma once

#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

constexpr int kAnchors = 4;
constexpr int kSums = 11;
constexpr std::int64_t kTerms = 128;

// sums[t] += sum over lines and i < count of grad[line][i] * in[line][i + t * dilation], t < taps.
// Steps in elements.
template <class T>
struct Correlation {
  const T *in;
  std::int64_t in_step, in_line;
  const T *grad;
  std::int64_t grad_step, grad_line;
  std::int64_t count, lines;
  T *sums;  // a vector for each tap
  std::int64_t taps, dilation;
};

namespace detail {

// With few taps, several sums a tap, so that the additions need not wait for each other.
template <int kTaps>
constexpr int kWays = kTaps <= 2   ? 4
                      : kTaps <= 5 ? 2
                                   : 1;

template <int kTaps, int kCount, class T>
PYPHASE_INLINE void add_products(Vec<T> (&sums)[kWays<kTaps>][kTaps], const Correlation<T> &c,
                                 const T *in, const T *grad) {
  Vec<T> g[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    g[i] = load(grad + i * c.grad_step);
  }
#pragma GCC unroll 16
  for (int j = 0; j < kCount + kTaps - 1; ++j) {
    const Vec<T> value = load(in + j * c.in_step);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      if (j - i >= 0 && j - i < kTaps) {
        Vec<T> &sum = sums[i % kWays<kTaps>][j - i];
        sum = fma<T>(g[i], value, sum);
      }
    }
  }
}

template <int kTaps, class T>
PYPHASE_INLINE void correlate_lines(const Correlation<T> &c, std::int64_t begin, std::int64_t end) {
  Vec<T> sums[kWays<kTaps>][kTaps] = {};
  for (std::int64_t line = begin; line < end; ++line) {
    const T *in = c.in + line * c.in_line;
    const T *grad = c.grad + line * c.grad_line;
    std::int64_t left = c.count;
    for (; left >= kAnchors; left -= kAnchors) {
      add_products<kTaps, kAnchors>(sums, c, in, grad);
      in += kAnchors * c.in_step;
      grad += kAnchors * c.grad_step;
    }
    for (; left > 0; --left) {
      add_products<kTaps, 1>(sums, c, in, grad);
      in += c.in_step;
      grad += c.grad_step;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTaps; ++t) {
    Vec<T> sum = sums[0][t];
#pragma GCC unroll 4
    for (int way = 1; way < kWays<kTaps>; ++way) {
      sum += sums[way][t];
    }
    store(c.sums + t * kLanes<T>, load(c.sums + t * kLanes<T>) + sum);
  }
}

// Sums of sums, of kTerms products each, keep the rounding errors small.
template <int kTaps, class T>
void correlate_chunk(const Correlation<T> &c) {
  const std::int64_t group = larger(kTerms / larger(c.count, 1), 1);
  for (std::int64_t line = 0; line < c.lines; line += group) {
    correlate_lines<kTaps>(c, line, smaller(line + group, c.lines));
  }
}

template <class T>
void correlate_chunk(const Correlation<T> &c) {
  switch (c.taps) {
    case 1:
      return correlate_chunk<1>(c);
    case 2:
      return correlate_chunk<2>(c);
    case 3:
      return correlate_chunk<3>(c);
    case 4:
      return correlate_chunk<4>(c);
    case 5:
      return correlate_chunk<5>(c);
    case 6:
      return correlate_chunk<6>(c);
    case 7:
      return correlate_chunk<7>(c);
    case 8:
      return correlate_chunk<8>(c);
    case 9:
      return correlate_chunk<9>(c);
    case 10:
      return correlate_chunk<10>(c);
    default:
      return correlate_chunk<kSums>(c);
  }
}

}  // namespace detail

template <class T>
void correlate(const Correlation<T> &c) {
  Correlation<T> part = c;
  if (c.dilation != 1) {  // tap by tap
    part.taps = part.dilation = 1;
    for (std::int64_t t = 0; t < c.taps; ++t) {
      part.in = c.in + t * c.dilation * c.in_step;
      part.sums = c.sums + t * kLanes<T>;
      detail::correlate_chunk(part);
    }
    return;
  }
  std::int64_t left = c.taps;
  for (std::int64_t chunks = (c.taps + kSums - 1) / kSums; chunks > 0; --chunks) {
    part.taps = (left + chunks - 1) / chunks;
    detail::correlate_chunk(part);
    left -= part.taps;
    part.in += part.taps * c.in_step;
    part.sums += part.taps * kLanes<T>;
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
