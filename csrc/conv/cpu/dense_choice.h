// For which dense float32 problems these kernels are at least as fast as two of torch's
// convolutions.
//
// Measured against torch 2.13 in the same layout on two cores with AVX2, of an AMD Zen 1 and a Zen
// 3: the benchmark's problems, on the latter also 61 more from 1 to 2048 channels and 1x1 to
// 128x128 pixels. What is not excluded below won or tied, within a noise of about 5 %.
#pragma once

#include <algorithm>

#include "../problem.h"

namespace pyphase::conv {

// `backward` stands for a forward pass and a backward pass after it.
inline bool dense_wins(const Pair &p, bool backward) {
  const std::int64_t pixels = p.mid_height() * p.mid_width();
  const std::int64_t *c = p.channels;
  const auto [least, most] = std::minmax({c[0], c[1], c[2]});
  const std::int64_t longest = std::max(p.row.kernel, p.column.kernel);
  const std::int64_t widest = std::max(p.row.dilation, p.column.dilation);
  // Torch's passes are near the peak where many channels meet many taps, or pixels that lie apart,
  // and in training don't compute the intermediate once more (0.95 to 1.05 of its speed).
  if (backward && (longest >= 5 ? least >= 64 : least >= 128 && widest > 1 && pixels >= 100)) {
    return false;
  }
  // Few pixels for many channels (0.9 to 1.05).
  if (backward && pixels < 100 && most > (p.channels_last ? 128 : 256)) {
    return false;
  }
  // Three channels fill no tile, and little work follows (0.9 to 1.05).
  if (!backward && c[0] < 4 && c[1] < 32) {
    return false;
  }
  if (p.channels_last) {
    // The same holds forward, with short kernels already from 32 channels on (0.9 to 1.1).
    if (!backward && most > (longest < 5 ? 16 : 64)) {
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
    if (widest > 8) {
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
