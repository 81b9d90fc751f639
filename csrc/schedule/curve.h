// Closed forms of the schedule curves.
//
// A curve runs from `start` to `end` while the fraction f goes from 0 to 1. Every form but the
// exponential and the inverse square root is a blend
//
//     value = start * a + end * b,    a + b = 1,    0 <= a, b <= 1
//
// with both weights computed without cancellation from f and its complement g = 1 - f. Hence the
// first value is exactly `start`, the last is exactly `end`, the blend of two finite ends never
// overflows, and ends of one sign give a small relative error at every step, however far apart
// they are.
//
// The same inline functions serve a single look-up and a whole table. The build turns off
// floating-point contraction, so that the vectorised loop and the scalar call give equal bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// Inlined also into functions that are compiled for other instruction sets.
#define PYPHASE_INLINE [[gnu::always_inline]] inline

namespace pyphase {

enum class Shape : std::uint8_t {
  kConstant,
  kLinear,
  kCosine,
  kExponential,
  kPolynomial,
  kOneMinusSqrt,
  kInverseSqrt,
  kRex,
  kTable,
};

struct Curve {
  Shape shape = Shape::kConstant;
  double start = 0.0;
  double end = 0.0;
  double param = 0.0;             // Polynomial: power. Rex: beta.
  const double *knots = nullptr;  // Table: num_knots values at equal distances over [0, 1].
  std::int64_t num_knots = 0;
  double from = 0.0;  // The part of the curve that the phase covers: all of it, or a cut-out.
  double to = 1.0;

  bool is_whole() const { return from == 0.0 && to == 1.0; }
};

// sin^2(pi/2 * u) for u in [0, 1/2]: a minimax polynomial for sin on [0, pi/4] (coefficients as in
// FreeBSD's msun k_sin.c), relative error under 4 ulp, no branch, so that loops over it vectorise.
PYPHASE_INLINE double half_sine_squared(double u) {
  constexpr double kHalfPi = 1.57079632679489661923;
  const double x = kHalfPi * u;
  const double z = x * x;
  const double tail =
      -1.66666666666666324348e-01 +
      z * (8.33333333332248946124e-03 +
           z * (-1.98412698298579493134e-04 +
                z * (2.75573137070700676789e-06 +
                     z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10))));
  const double sine = x + x * z * tail;
  return sine * sine;
}

PYPHASE_INLINE double linear(const Curve &c, double f, double g) { return c.start * g + c.end * f; }

// a = (1 + cos(pi f)) / 2 = cos^2(pi/2 f), folded to the nearer end so that neither weight cancels.
PYPHASE_INLINE double cosine(const Curve &c, double f, double g) {
  const double small = half_sine_squared(std::min(f, g));
  const double large = 1.0 - small;
  return f < g ? c.start * large + c.end * small : c.start * small + c.end * large;
}

// start * (end/start)^f, taken from the nearer end so that both ends are exact.
inline double exponential(const Curve &c, double f, double g) {
  return f < g ? c.start * std::pow(c.end / c.start, f) : c.end * std::pow(c.start / c.end, g);
}

// a = (1 - f)^power; where 1 - a would cancel, b comes from expm1.
inline double polynomial(const Curve &c, double f, double g) {
  const double a = std::pow(g, c.param);
  const double log_g = f < 0.5 ? std::log1p(-f) : std::log(g);
  const double b = a > 0.5 ? -std::expm1(c.param * log_g) : 1.0 - a;
  return c.start * a + c.end * b;
}

// a = 1 - sqrt(f) = (1 - f) / (1 + sqrt(f)).
inline double one_minus_sqrt(const Curve &c, double f, double g) {
  const double root = std::sqrt(f);
  return c.start * (g / (1.0 + root)) + c.end * root;
}

// start / sqrt(1 + f ((start/end)^2 - 1)): start / sqrt(1 + t/timescale) with its last value given.
inline double inverse_sqrt(const Curve &c, double f, double g) {
  const double ratio = c.start / c.end;
  return f < 1.0 ? c.start / std::sqrt(g + f * ratio * ratio) : c.end;
}

// a = (1 - f) / ((1 - beta) + beta (1 - f)).
inline double rex(const Curve &c, double f, double g) {
  const double rest = 1.0 - c.param;
  const double scale = rest + c.param * g;
  return c.start * (g / scale) + c.end * (f * rest / scale);
}

// Linear interpolation between the two knots around f.
inline double interpolated(const Curve &c, double f) {
  const double position = f * static_cast<double>(c.num_knots - 1);
  const auto left = std::min(static_cast<std::int64_t>(position), c.num_knots - 2);
  const double weight = position - static_cast<double>(left);
  return c.knots[left] * (1.0 - weight) + c.knots[left + 1] * weight;
}

// Calls visit(form), where form(f, g) is the curve's closed form: the shape is chosen once, outside
// of whatever loop `visit` runs.
template <typename Visit>
inline auto with_form(const Curve &c, Visit &&visit) {
  switch (c.shape) {
    case Shape::kLinear:
      return visit([c](double f, double g) { return linear(c, f, g); });
    case Shape::kCosine:
      return visit([c](double f, double g) { return cosine(c, f, g); });
    case Shape::kExponential:
      return visit([c](double f, double g) { return exponential(c, f, g); });
    case Shape::kPolynomial:
      return visit([c](double f, double g) { return polynomial(c, f, g); });
    case Shape::kOneMinusSqrt:
      return visit([c](double f, double g) { return one_minus_sqrt(c, f, g); });
    case Shape::kInverseSqrt:
      return visit([c](double f, double g) { return inverse_sqrt(c, f, g); });
    case Shape::kRex:
      return visit([c](double f, double g) { return rex(c, f, g); });
    case Shape::kTable:
      return visit([c](double f, double) { return interpolated(c, f); });
    case Shape::kConstant:
      break;
  }
  return visit([c](double, double) { return c.start; });
}

// i / n for whole 0 <= i <= n, from inverse = 1 / n: a product and one correction step, within an
// ulp of the quotient and exact at both ends. A loop does this faster than it divides.
PYPHASE_INLINE double fraction(double i, double n, double inverse) {
  const double guess = i * inverse;
  return std::fma(std::fma(-guess, n, i), inverse, guess);
}

// Value at the fraction f of the covered part and its complement g = 1 - f.
inline double at(const Curve &c, double f, double g) {
  const double in_curve = c.is_whole() ? f : c.from * g + c.to * f;
  const double left_over = c.is_whole() ? g : (1.0 - c.from) * g + (1.0 - c.to) * f;
  return with_form(c, [=](auto form) { return form(in_curve, left_over); });
}

}  // namespace pyphase
