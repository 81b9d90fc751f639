// For which dense float32 problems these kernels are at least as fast as two of torch's
// convolutions.
//
// Measured against torch 2.13 in the same layout on two cores of an AMD Zen 3 with AVX2: 61
// problems from 1 to 2048 channels and 1x1 to 128x128 pixels on one thread, 19 more up to 512x512
// pixels on one and two. What is not excluded below won there or tied: the least was 0.93 in a
// noise of about 5 %, in the backward pass of channels-last images with 128 to 512 channels and 8x8
// to 17x17 pixels.
#pragma once

#include <algorithm>

#include "../problem.h"

namespace pyphase::conv {

// `backward` stands for a forward pass and a backward pass after it.
inline bool dense_wins(const Pair &p, bool backward) {
  const std::int64_t pixels = p.mid_height() * p.mid_width();
  const std::int64_t *c = p.channels;
  const std::int64_t most = std::max({c[0], c[1], c[2]});
  if (!p.channels_last) {
    // Vectors hold channels: with three of them most lanes are idle, while torch's run along rows
    // (0.4 to 1.0 of its speed).
    if (most < 4) {
      return false;
    }
    // Many channels into few: their transposition costs as much as the few products it feeds (0.8
    // to 1.2).
    if (backward ? c[0] >= 8 * c[1] : c[0] > 8 * c[1]) {
      return false;
    }
    // Nothing but a product of matrices (0.6 to 1.1).
    if (p.row.kernel == 1 && p.column.kernel == 1) {
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
