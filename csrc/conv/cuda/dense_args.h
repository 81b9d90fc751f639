// What the dense kernels are given, in plain C++: the plan fills these in, the kernels read them.
//
// Sizes and strides are in elements unless a name says bytes. Offsets inside an image are 32-bit,
// an image's own offset is 64-bit: the plans refuse images of 2^31 elements and more.
//
// A kernel sees an image as lines: `a` runs along its first convolution, `b` along its second one,
// whichever of them is horizontal.
#pragma once

#include <cstdint>

#include "depthwise_args.h"

namespace pyphase::conv::cuda {

constexpr int kDenseThreads = 256;  // eight warps: four along the pixels, two along the channels
constexpr int kDenseRows = 128;     // pixels of a pass: 4 warps x 32
constexpr int kDenseStages = 3;     // of weights in flight or in use

// Bytes from one row of a chunk in shared memory to the next: an odd number of 16-byte units.
constexpr PYPHASE_BOTH int dense_pitch(int chunk) { return chunk + 16; }

constexpr PYPHASE_BOTH int dense_least(int a, int b) { return a < b ? a : b; }

// An image that a convolution reads. Where `up` is s, its pixel i is at coordinate i s, and what
// lies between is zero: so the transpose of a convolution with stride s is one with stride 1.
struct DenseImage {
  const void *data;
  std::int64_t image;
  int channels, channel, a, b;  // and strides of channel, a and b
  int size_a, size_b, up_a, up_b;
  int vectors;  // whether 16 bytes of channels can be moved as one
};

// Weights as dense_pack leaves them: (tap, unit of 16 bytes of input channels, output channel,
// input channel of the unit), zero in the padding.
struct DenseWeights {
  const void *packed, *bias;  // a null bias is zero
  int taps, dilation;
  int inputs, outputs;  // rounded up to whole chunks, to whole passes
  int channels;         // outputs that exist
  int chunk;            // bytes of input channels in a step: 32 or 64
};

struct DensePairArgs {
  DenseImage x;
  DenseWeights first, second;
  void *y;
  std::int64_t y_image;
  int y_channel, y_a, y_b, out_a, out_b;
  int y_pairs;  // whether two channels of y can be moved as one
  int stride_a, stride_b, pad_a, pad_b;
  int mid_b;                               // lines of the intermediate
  int tile_a, tile_b, tiles_a, tiles_b;    // of the output
  int step, tap_lines;                     // see dense_forward.cuh
  int lines;                               // of a pass: kDenseRows / tile_a at most
  int mid_lines;                           // that a tile's second convolution reads
  int reach;                               // pixels of x along a that a tile reads
  int phase, slots;                        // see dense_stage.cuh
  int buffers;                             // of x
  int mid_pitch, x_offset, weight_offset;  // bytes
  int a_contiguous;                        // whether x is contiguous along a, of a and b
  int activation;
};

// dense_gradient: the pair of the transposes, and what it needs of the pair itself. `pair` reads
// grad_y along the second convolution, then the gradient of the intermediate along the first one.
struct DenseGradientArgs {
  DensePairArgs pair;  // y: the gradient of x, null: not asked for
  DenseImage x;
  DenseWeights weights;          // of the first convolution, whose intermediate is made again
  int pad, halo_lines, buffers;  // its padding, lines more than a pass's, buffers of x
  // Rows of pair.second.inputs channels: (image, line, pixel along a). Null: not asked for.
  void *mid, *grad_mid;
};

// dense_weight: partial[part][tap][p][q] = sum over a part of the pixels (image, v, u) of
// P(image, v, u)[p] Q(image, v, u stride + tap dilation - pad)[q], and the sums of P alone.
struct DenseOperand {
  const void *data;
  std::int64_t image;
  int channels, channel, u, v;  // and strides of channel, u and v
  int size_u, vectors;
};
struct DenseWeightArgs {
  DenseOperand p, q;
  float *partial, *bias;  // bias[part][p]
  int taps, stride, dilation, pad;
  int pixels_u, pixels_v;  // of an image
  int pixels, part;        // in all; of a part
  int p_tiles, q_tiles;    // of kDenseTile channels
  int u_contiguous;
};

// dense_reduce: to[p][q][tap] and bias[p], sums over the parts in their order.
struct DenseReduceArgs {
  const float *partial, *partial_bias;
  void *to, *bias;  // null: not asked for
  int parts, taps, p, q, padded_p, padded_q;
};

constexpr int kDenseTile = 64;    // channels of either operand that a block of dense_weight takes
constexpr int kDensePixels = 32;  // of a step

// dense_pack: to[tap][unit][output][input] = from[output][input][tap], or its transpose with the
// taps reversed (for the gradient of the input).
struct DensePackArgs {
  const void *from;
  void *to;
  int taps, inputs, outputs;                // of `to`, that exist
  int padded_inputs, padded_outputs, flip;  // flip: from[input][output][taps - 1 - tap]
};

}  // namespace pyphase::conv::cuda
