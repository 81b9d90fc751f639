// Small helpers of the depthwise plans.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "depthwise_launch.h"

namespace pyphase::conv::cuda {

inline constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

inline int to_int(std::int64_t value) { return static_cast<int>(value); }
inline int divide_up(int value, int by) { return (value + by - 1) / by; }
inline double itemsize(const Pair &pair) { return pair.scalar == Scalar::f32 ? 4 : 2; }

inline int all_taps(const Strips &strips) {
  int taps = 0;
  for (const Pair &pair : strips.pairs) {
    taps += to_int(pair.row.kernel + pair.column.kernel) + 2;
  }
  return taps;
}

// Elements of one axis that pieces of `size` read with `pad` elements on either side.
inline std::int64_t read_in_all(std::int64_t length, std::int64_t size, std::int64_t pad) {
  std::int64_t sum = 0;
  for (std::int64_t begin = 0; begin < length; begin += size) {
    sum += std::min(length, begin + size + pad) - std::max<std::int64_t>(0, begin - pad);
  }
  return sum;
}

// No blocks where there are too many.
inline Grid flat(std::int64_t blocks) {
  return {blocks <= kMost ? static_cast<unsigned>(blocks) : 0, 1, 1};
}

inline int count_taps(int sizes) {
  return sizes < 0 ? round_to(21, 4) + round_to(11, 4) + round_to(7, 4) : round_to(sizes, 4);
}
inline int most_taps(int sizes) { return sizes < 0 ? 21 : sizes; }
inline int sum_of_taps(int sizes) { return sizes < 0 ? 21 + 11 + 7 : sizes; }

}  // namespace pyphase::conv::cuda
