// The kernels of one instruction set, as a table of functions.
#pragma once

#include "problem.h"

namespace pyphase::conv {

// One depthwise 1xk, kx1 pair of a sum of pairs over the same image, in its order of execution.
// Weights are contiguous (channels, k); a null bias is zero; null weights are a kernel of one tap
// with weight one.
struct Strip {
  Axis first, second;
  const void *weight1, *weight2, *bias1, *bias2;
};

// Strides of an image in elements.
struct View {
  std::int64_t image, channel, row, column;
};

// y = sum over strips of conv(act(conv(x, weight1) + bias1), weight2) + bias2. The first
// convolution runs along rows: where it runs along columns in the image, rows and columns are
// exchanged here.
struct Depthwise {
  std::int64_t batch, channels, height, width, out_height, out_width;
  View in, out;
  Activation activation;
  const Strip *strips;
  int count;
};

// The backward pass of one such pair; a null gradient is not asked for.
struct DepthwiseBackward {
  std::int64_t batch, channels, height, width, out_height, out_width;
  View in, out;
  Activation activation;
  Axis first, second;
  const void *weight1, *weight2, *bias1;
  Gradients grad;
  const void *add;  // an image like x, to add to the gradient of x; may be that gradient itself
};

// Weights are (channels[1], channels[0], 1, k) and the like, contiguous; a null bias is zero.
struct Kernels {
  const char *name;
  void (*depthwise_forward)(const Depthwise &, Scalar, const void *x, void *y);
  void (*depthwise_backward)(const DepthwiseBackward &, Scalar, const void *x, const void *grad_y);
  void (*dense_forward)(const Pair &, const float *x, const float *w1, const float *w2,
                        const float *b1, const float *b2, float *y);
  void (*dense_backward)(const Pair &, const float *x, const float *w1, const float *w2,
                         const float *b1, const float *grad_y, const Gradients &);
};

}  // namespace pyphase::conv
