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

// Weights as dense_pack leaves them: (tap, output channel, input channel), zero in the padding.
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
  int lines;                               // of a pass: kDenseRows / tile_a
  int mid_lines;                           // that a tile's second convolution reads
  int reach;                               // pixels of x along a that a tile reads
  int phase, slots;                        // see dense_stage.cuh
  int buffers;                             // of x
  int mid_pitch, x_offset, weight_offset;  // bytes
  int a_contiguous;                        // whether x is contiguous along a, of a and b
  int activation;
};

// dense_pack: to[tap][output][input] = from[output][input][tap], or its transpose with the taps
// reversed (for the gradient of the input).
struct DensePackArgs {
  const void *from;
  void *to;
  int taps, inputs, outputs;                // of `to`, that exist
  int padded_inputs, padded_outputs, flip;  // flip: from[input][output][taps - 1 - tap]
};

}  // namespace pyphase::conv::cuda
