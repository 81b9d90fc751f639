// Activations between the two convolutions and their slopes, on vectors of float or double.
//
// Infinities and NaNs pass as through torch's functions: silu(-inf) and gelu(-inf) are NaN.
#pragma once

#include "../problem.h"
#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

namespace detail {

template <class T>
struct Exponent;

template <>
struct Exponent<float> {
  static constexpr int kFraction = 23, kBias = 127, kDegree = 7;
  static constexpr float kRound = 0x1.8p23f;                   // adding it leaves an integer
  static constexpr float kLeast = -104.0f, kGreatest = 89.0f;  // beyond: zero, infinity
  static constexpr float kLog2High = 0x1.62ep-1f, kLog2Low = 0x1.0bfbeap-15f;
  static constexpr std::int32_t kHighBits = ~0xfff;  // of a fraction whose square is exact
};

template <>
struct Exponent<double> {
  static constexpr int kFraction = 52, kBias = 1023, kDegree = 13;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLeast = -746.0, kGreatest = 710.0;
  static constexpr double kLog2High = 0x1.62e42feep-1, kLog2Low = 0x1.a39ef35793c76p-33;
  static constexpr std::int64_t kHighBits = ~0x7ffffffLL;
};

// exp(x + low) for a small `low`: 2^n times a Taylor series on |r| <= log(2) / 2, of which the
// first term left out is below a tenth of an ulp. 2^n in two factors reaches subnormals and inf.
template <class T>
PYPHASE_INLINE Vec<T> exponential(Vec<T> x, Vec<T> low) {
  using E = Exponent<T>;
  const Vec<T> least = broadcast(E::kLeast), greatest = broadcast(E::kGreatest);
  x = x < least ? least : x;
  x = x > greatest ? greatest : x;
  const Vec<T> shifted = x * T(1.4426950408889634) + E::kRound;
  const Vec<T> n = shifted - E::kRound;
  const Vec<T> r = x - n * E::kLog2High - n * E::kLog2Low + low;
  constexpr auto kInverseFactorial = [](int i) {
    double factorial = 1;
    for (int j = 2; j <= i; ++j) {
      factorial *= j;
    }
    return static_cast<T>(1 / factorial);
  };
  Vec<T> sum = broadcast(kInverseFactorial(E::kDegree));
#pragma GCC unroll 16
  for (int i = E::kDegree - 1; i >= 0; --i) {
    sum = sum * r + kInverseFactorial(i);
  }
  // The low bits of `shifted` are n; an even offset keeps it positive.
  using Bits = Index<T>;
  constexpr typename VectorOf<T>::Mask kOffset = 4 * E::kBias;
  const Bits whole =
      reinterpret_cast<Bits>(shifted) - reinterpret_cast<Bits>(broadcast(E::kRound)) + kOffset;
  const Bits half = whole >> 1;
  const Bits first = (half - kOffset / 2 + E::kBias) << E::kFraction;
  const Bits second = (whole - half - kOffset / 2 + E::kBias) << E::kFraction;
  return sum * reinterpret_cast<Vec<T>>(first) * reinterpret_cast<Vec<T>>(second);
}

// The scaled tail of the normal distribution, (x + k) exp(x^2 / 2) P(X > x) for x >= 0, as a
// polynomial in u = (x - k) / (x + k), by interpolation at Chebyshev's nodes in 50 digits.
template <class T>
struct Tail;

template <>  // relative error 4e-9
struct Tail<float> {
  static constexpr float kCentre = 4, kEnd = 15;  // at the end exp(-x^2 / 2) is zero
  static constexpr int kTerms = 12;
  static constexpr float kSeries[kTerms] = {2.197904341e-5f, -1.725992292e-6f, -2.177710657e-4f,
                                            1.336404262e-4f, 1.624247637e-3f,  -3.479943026e-3f,
                                            -7.53868878e-3f, 6.0396644e-2f,    -1.865219849e-1f,
                                            3.871373944e-1f, -6.078966402e-1f, 7.552851305e-1f};
};

template <>  // relative error 5e-17
struct Tail<double> {
  static constexpr double kCentre = 5, kEnd = 39;
  static constexpr int kTerms = 23;
  static constexpr double kSeries[kTerms] = {
      -8.16619262442898631e-10, 5.03730212637985613e-10, 9.44682751967736646e-9,
      -5.0156499398578569e-9,   -6.78255531329115541e-8, 3.58184005154322338e-8,
      4.34026259482977534e-7,   -3.31069807152686198e-7, -2.76933787104385417e-6,
      3.97791264059324225e-6,   1.66810991158634668e-5,  -4.97617711897921823e-5,
      -5.93756732864886558e-5,  5.44898830900930007e-4,  -7.97869409480806354e-4,
      -2.99337673822321996e-3,  2.07950668009416153e-2,  -6.91186387088143285e-2,
      1.65020366170342813e-1,   -3.13533156671213766e-1, 4.9530561596997679e-1,
      -6.65382502890057685e-1,  7.6919304975006296e-1};
};

template <class T>
struct Normal {
  Vec<T> below;    // P(X < x)
  Vec<T> density;  // exp(-x^2 / 2) / sqrt(2 pi)
};

template <class T>
PYPHASE_INLINE Normal<T> normal(Vec<T> x) {
  const Vec<T> end = broadcast(Tail<T>::kEnd);
  Vec<T> size = x < T(0) ? -x : x;
  size = size > end ? end : size;
  const Vec<T> inverse = T(1) / (size + Tail<T>::kCentre);
  const Vec<T> u = (size - Tail<T>::kCentre) * inverse;
  Vec<T> sum = broadcast(Tail<T>::kSeries[0]);
#pragma GCC unroll 32
  for (int i = 1; i < Tail<T>::kTerms; ++i) {
    sum = sum * u + Tail<T>::kSeries[i];
  }
  // x^2 in two parts, of which the first is exact: the exponential would magnify its rounding.
  const Vec<T> high =
      reinterpret_cast<Vec<T>>(reinterpret_cast<Index<T>>(size) & Exponent<T>::kHighBits);
  const Vec<T> bell =
      exponential<T>(high * high * T(-0.5), (size - high) * (size + high) * T(-0.5));
  const Vec<T> tail = bell * sum * inverse;
  return {x < T(0) ? tail : T(1) - tail, bell * T(0.39894228040143268)};
}

}  // namespace detail

// ---- one vector --------------------------------------------------------------------------------

template <class T>
struct Activated {
  Vec<T> value, slope;
};

// The slope of relu is as torch's: 1 where the value is positive or NaN.
template <Activation kActivation, class T>
PYPHASE_INLINE Activated<T> activate_with_slope(Vec<T> x) {
  const Vec<T> zero = {}, one = broadcast(T(1));
  if constexpr (kActivation == Activation::relu) {
    return {x < zero ? zero : x, x <= zero ? zero : one};
  } else if constexpr (kActivation == Activation::gelu) {
    const detail::Normal<T> normal = detail::normal<T>(x);
    return {x * normal.below, normal.below + x * normal.density};
  } else if constexpr (kActivation == Activation::silu) {
    const Vec<T> denominator = one + detail::exponential<T>(-x, zero);
    const Vec<T> sigmoid = one / denominator;
    return {x / denominator, sigmoid * (one + x * (one - sigmoid))};
  } else {
    return {x, one};
  }
}

template <Activation kActivation, class T>
PYPHASE_INLINE Vec<T> activate(Vec<T> x) {
  return activate_with_slope<kActivation, T>(x).value;
}

// ---- rows of whole vectors ---------------------------------------------------------------------

// Calls `body` with the activation as a constant.
template <class Body>
PYPHASE_INLINE void dispatch(Activation activation, Body body) {
  switch (activation) {
    case Activation::none:
      return body(std::integral_constant<Activation, Activation::none>{});
    case Activation::relu:
      return body(std::integral_constant<Activation, Activation::relu>{});
    case Activation::gelu:
      return body(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::silu:
      return body(std::integral_constant<Activation, Activation::silu>{});
  }
}

// n elements in place, n rounded up to whole vectors: the row is padded.
template <class T>
inline void activate_row(Activation activation, T *row, long n) {
  dispatch(activation, [&](auto constant) {
    if constexpr (constant.value != Activation::none) {
      for (long i = 0; i < n; i += kLanes<T>) {
        store<T>(row + i, activate<constant.value, T>(load<T>(row + i)));
      }
    }
  });
}

// The same, with the slopes into a row of the same size.
template <class T>
inline void activate_row_with_slope(Activation activation, T *row, T *slope, long n) {
  dispatch(activation, [&](auto constant) {
    for (long i = 0; i < n; i += kLanes<T>) {
      const Activated<T> a = activate_with_slope<constant.value, T>(load<T>(row + i));
      store<T>(row + i, a.value);
      store<T>(slope + i, a.slope);
    }
  });
}

}  // namespace pyphase::conv::PYPHASE_ISA
