// What the depthwise kernels are given, and the table of their instantiations, in plain C++.
//
// All sizes and strides are in elements. Offsets inside an image are 32-bit, an image's own offset
// is 64-bit: the plans refuse images of 2^31 elements and more.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PYPHASE_BOTH __host__ __device__
#else
#define PYPHASE_BOTH
#endif

namespace pyphase::conv::cuda {

constexpr int kMostStrips = 8;

// Taps along a row and along a column of the image as it lies, whichever comes first.
struct StripWeights {
  const void *horizontal, *vertical, *bias1, *bias2;  // a null bias is zero
};

// Where the taps of an axis lie among the K that depthwise_march is compiled for; zeros elsewhere.
struct Embedded {
  int taps, first, step;
};

struct MarchStripArgs {
  StripWeights weights;
  Embedded horizontal, vertical;
  int column_first;  // linear strips alone: their convolutions are exchanged
};

// depthwise_march: pairs at stride 1 whose output has the input's size, and that reach over no more
// rows and columns than the kernel is compiled for.
struct MarchArgs {
  const void *x;
  void *y;
  int batch, channels, height, width;
  int images;                 // of a block, one after the other
  int planes, groups;         // channels of a block; threads across a row, each of four columns
  int tiles, rows, chunks;    // tiles across a row; output rows of a block, blocks along a column
  int channel_blocks, pitch;  // floats between two channels of a staged row (NCHW)
  int vectors;                // whether four neighbours in memory can be moved as one
  int residual, activation;   // of the intermediate, where rows come first
  MarchStripArgs strips[3];
};

// One convolution along an axis, as the general kernels take it.
struct TapAxis {
  int kernel, stride, dilation, pad;
};

struct GeneralStrip {
  TapAxis vertical, horizontal;
  StripWeights weights;
  int row_first;

  PYPHASE_BOTH const TapAxis &first() const { return row_first ? horizontal : vertical; }
  PYPHASE_BOTH const TapAxis &second() const { return row_first ? vertical : horizontal; }
};

// Indices from `begin` on.
struct Range {
  int begin, count;

  PYPHASE_BOTH int end() const { return begin + count; }
  PYPHASE_BOTH void cover(const Range &other) {
    const int last = end() > other.end() ? end() : other.end();
    begin = begin < other.begin ? begin : other.begin;
    count = last - begin;
  }
};

// Values, not references: the kernels' ranges stay in registers.
constexpr PYPHASE_BOTH Range pick(bool first, Range one, Range other) {
  return {first ? one.begin : other.begin, first ? one.count : other.count};
}

constexpr PYPHASE_BOTH int floor_to(int value, int by) {
  return (value >= 0 ? value : value - by + 1) / by;
}

// Inputs of an axis that outputs need.
PYPHASE_BOTH inline Range inputs_of(const Range &out, const TapAxis &axis) {
  return {out.begin * axis.stride - axis.pad,
          (out.count - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1};
}

// Outputs that a tile of inputs has to itself: the tile begins and ends at multiples of the stride.
PYPHASE_BOTH inline Range own_outputs(const Range &in, const TapAxis &axis) {
  return {in.begin / axis.stride, in.count / axis.stride};
}

// Outputs that read any of a tile of inputs, and those that it has to itself.
PYPHASE_BOTH inline Range outputs_of(const Range &in, const TapAxis &axis) {
  const int begin =
      -floor_to(-(in.begin + axis.pad - (axis.kernel - 1) * axis.dilation), axis.stride);
  Range out{begin, floor_to(in.end() - 1 + axis.pad, axis.stride) + 1 - begin};
  out.cover(own_outputs(in, axis));
  return out;
}

// What a tile of inputs needs of a strip in a backward pass, on the axes of the image.
struct GradientTile {
  Range x_rows, x_columns, g_rows, g_columns;
  Range mid;  // along the axis of the first convolution

  PYPHASE_BOTH GradientTile(const GeneralStrip &strip, const Range &rows, const Range &columns) {
    const Range along = pick(strip.row_first, columns, rows);
    const Range across = pick(strip.row_first, rows, columns);
    mid = outputs_of(along, strip.first());
    Range x = inputs_of(mid, strip.first());
    x.cover(along);
    const Range g = outputs_of(across, strip.second());
    x_rows = pick(strip.row_first, across, x);
    x_columns = pick(strip.row_first, x, across);
    g_rows = pick(strip.row_first, g, mid);
    g_columns = pick(strip.row_first, mid, g);
  }
  PYPHASE_BOTH void cover(const GradientTile &other) {
    x_rows.cover(other.x_rows);
    x_columns.cover(other.x_columns);
    g_rows.cover(other.g_rows);
    g_columns.cover(other.g_columns);
  }
};

// depthwise_general and depthwise_gradient: everything else. `tap`s of a channel are those of the
// first and the second convolution, bias1 and bias2, strip after strip.
struct GeneralArgs {
  const void *x, *grad_y;  // grad_y: backward alone
  void *y;                 // the output; backward: the gradient of x, null: not asked for
  float *partial;          // backward: sums of a block, (slice, channel, tap)
  int batch, channels, height, width, out_height, out_width;
  int channels_last;
  int planes, channel_blocks;       // channels of a block; blocks across the channels
  int tile_height, tile_width;      // of the output; backward: of the input
  int tiles_down, tiles_across;     // of an image
  int x_height, x_width, mid_size;  // most that a tile holds, of x and of an intermediate
  int g_height, g_width;            // backward: of the gradient of y
  int taps;
  int residual, activation, count;
  GeneralStrip strips[kMostStrips];
};

// depthwise_sum: gradient[channel][tap] = sum over slices of partial[slice][channel][tap].
struct SumArgs {
  const float *partial;
  int slices, channels, taps, count;
  struct Part {
    void *to;  // (channels, length), null: not asked for
    int begin, length;
  } parts[4 * kMostStrips];
};

// The shared memory of depthwise_march, in floats, for the kernel and its plan.

constexpr int kMarchThreads = 256;
constexpr int kGeneralThreads = 256;
constexpr int kLanePlanes = 16;  // channels of a block in NHWC: a sector of 16-bit values

constexpr PYPHASE_BOTH int round_to(int value, int to) { return (value + to - 1) / to * to; }

// Columns that a staged row has before the tile; a window of a thread, which begins there.
constexpr PYPHASE_BOTH int march_left(bool last, int most) {
  return round_to(most / 2, last ? 2 : 4);
}
constexpr PYPHASE_BOTH int march_window(bool last, int most) {
  const int needed = march_left(last, most) - most / 2 + most + 3;
  return last ? needed : round_to(needed, 4);
}
// Horizontal taps, vertical taps, bias1 and bias2 of each strip: an odd number of vectors, so that
// channels side by side lie in different banks.
constexpr PYPHASE_BOTH int march_weights(int taps, int count) {
  return (round_to(2 * taps + 2 * count, 4) / 4 | 1) * 4;
}
// A staged row: two are kept.
constexpr PYPHASE_BOTH int march_buffer(bool last, int most, int planes, int groups, int pitch) {
  return last ? round_to(4 * (groups - 1) + march_window(true, most), 2) * kLanePlanes
              : planes * pitch;
}

}  // namespace pyphase::conv::cuda
