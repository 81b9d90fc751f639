// For which dense float32 problems these kernels are at least as fast as two of torch's
// convolutions.
//
// Measured against torch 2.13 in the same layout on two cores of an AMD Zen 3 with AVX2: the
// benchmark's problems, and 61 more from 1 to 2048 channels and 1x1 to 128x128 pixels. What is not
// excluded below won there or tied, within a noise of about 5 %. In training the bar is lower:
// where torch's backward pass follows this forward pass, the intermediate is computed once more
// (0.7 to 0.9 of torch's speed).
#pragma once

#include <algorithm>

#include "../problem.h"

namespace pyphase::conv {

// `backward` stands for a forward pass and a backward pass after it.
inline bool dense_wins(const Pair &p, bool backward) {
  const std::int64_t pixels = p.mid_height() * p.mid_width();
  const std::int64_t *c = p.channels;
  const std::int64_t most = std::max({c[0], c[1], c[2]});
  const std::int64_t longest = std::max(p.row.kernel, p.column.kernel);
  if (p.channels_last) {
    // Torch's forward pass is near the peak with short kernels and 32 channels or more (0.8
    // to 1.1), its backward pass where many channels meet few pixels (0.9).
    if (!backward && longest < 5 && most > 16) {
      return false;
    }
    if (backward && most > 128 && pixels < 100) {
      return false;
    }
  } else {
    // Vectors hold channels: with three of them most lanes are idle, while torch's run along rows
    // (0.4 to 1.0 of its speed).
    if (most < 4) {
      return false;
    }
    // Many channels into few: their transposition costs as much as the few products it feeds (0.8
    // to 1.2).
    if (c[0] > 8 * c[1]) {
      return false;
    }
    // Nothing but a product of matrices (0.6 to 1.1).
    if (longest == 1) {
      return false;
    }
    // Rows that lie far apart (0.8).
    if (std::max(p.row.dilation, p.column.dilation) > 8) {
      return false;
    }
  }
  // Weights that few pixels use are packed, and their gradients gathered, for too little (0.5 to
  // 1.0). The gradients are gathered image by image.
  if (most > 128) {
    return backward ? p.batch * pixels >= 80 && pixels >= 48 : p.batch * pixels >= 32;
  }
  return true;
}

}  // namespace pyphase::conv
