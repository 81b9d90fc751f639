// What a factorized convolution is to the kernels: sizes and strides, checked once.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pyphase::conv {

enum class Scalar { f32, f64, bf16, f16 };
enum class Activation { none, relu, gelu, silu };

// A convolution along one axis: output i reads inputs i * stride + t * dilation - pad, t < kernel.
struct Axis {
  std::int64_t kernel = 1, stride = 1, dilation = 1, pad = 0;

  std::int64_t reach() const { return (kernel - 1) * dilation + 1; }
};

// y = conv(act(conv(x, w1) + b1), w2) + b2, one convolution along rows (1xk), the other along
// columns (kx1), row_first saying which comes first. Images are dense, NCHW or NHWC.
struct Pair {
  std::int64_t batch, height, width;  // of x
  std::int64_t channels[3];           // of x, of the intermediate, of y
  Axis row, column;
  bool row_first, channels_last, depthwise, dense;
  std::int64_t out_height, out_width;
  Activation activation;
  Scalar scalar;

  std::int64_t mid_height() const { return row_first ? height : out_height; }
  std::int64_t mid_width() const { return row_first ? out_width : width; }
};

// Contiguous weights and biases, images in the layout of the pair; a null bias is zero.
struct PairData {
  const void *x, *w1, *w2, *b1, *b2;
};

// Addresses for a backward pass; a null gradient is not asked for.
struct Gradients {
  void *x, *w1, *w2, *b1, *b2;
};

using Shape = std::array<std::int64_t, 4>;

// A pair as a caller states it.
struct PairRequest {
  Shape input, weight1, weight2;
  std::array<std::int64_t, 2> stride, dilation, groups;  // (vertical, horizontal), (first, second)
  Shape padding;                                         // top, bottom, left, right
  std::string activation, dtype;
  bool channels_last;
};

// Throws std::invalid_argument where the sizes don't make a convolution, or overflow.
Pair make_pair(const PairRequest &request);

// A sum of depthwise pairs over one image, each padded to its size, and the image itself if
// `residual`.
struct Strips {
  std::vector<Pair> pairs;
  bool residual;
};

// Throws std::invalid_argument where the pairs are none, or not of one image.
Strips make_strips(std::vector<Pair> pairs, bool residual);

}  // namespace pyphase::conv
