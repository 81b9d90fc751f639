// What the depthwise kernels are given, and sizes that they share with their plan, in plain C++.
//
// All sizes and strides are in elements. Offsets inside an image are 32-bit, an image's own offset
// is 64-bit: the plans refuse images of 2^30 elements and more.
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

  // Which of them lies at a place, -1: none.
  PYPHASE_BOTH int index(int place) const {
    const int at = place - first;
    return at >= 0 && at % step == 0 && at < taps * step ? at / step : -1;
  }
};

struct MarchStripArgs {
  StripWeights weights;
  Embedded horizontal, vertical;
  int column_first;  // linear strips alone: their convolutions are exchanged
};

// depthwise_march and depthwise_march_backward: pairs at stride 1 whose output has the input's
// size, and that reach over no more rows and columns than the kernel is compiled for.
struct MarchArgs {
  const void *x, *grad_y;  // grad_y: backward alone
  void *y;                 // the output; backward: the gradient of x, null: not asked for
  float *partial;          // backward: sums of a block, (slice, channel, tap): of each strip the
                           // horizontal taps, the vertical ones, bias1; then bias2
  int batch, channels, height, width;
  int images;                 // of a block, one after the other
  int planes, groups;         // channels of a block; threads across a row, each of four columns
  int own;                    // of the groups: those whose columns are the tile's own
  int tiles, rows, chunks;    // tiles across a row; output rows of a block, blocks along a column
  int channel_blocks, pitch;  // floats between two channels of a staged row (NCHW)
  int together;               // neighbours in memory that are moved as one: 4, 2 (NCHW) or 1
  int taps;                   // backward: of a channel, in `partial`
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

// Threads of a block, and shared memory of the marches in floats, for the kernels and their plan.

constexpr int kMarchThreads = 256;
constexpr int kGeneralThreads = 256;
constexpr int kLanePlanes = 16;  // channels of a block in NHWC: a sector of 16-bit values

constexpr PYPHASE_BOTH int round_to(int value, int to) { return (value + to - 1) / to * to; }

// Columns that a staged row has before the block's first one; a window of a thread, which begins
// there.
constexpr PYPHASE_BOTH int march_left(int most) { return round_to(most / 2, 4); }
constexpr PYPHASE_BOTH int march_window(int most) {
  return round_to(march_left(most) - most / 2 + most + 3, 4);
}
// Horizontal taps, vertical taps, bias1 and bias2 of each strip: an odd number of vectors, so that
// channels side by side lie in different banks.
constexpr PYPHASE_BOTH int march_weights(int taps, int count) {
  return (round_to(2 * taps + 2 * count, 4) / 4 | 1) * 4;
}
// Columns of a staged row. In NCHW consecutive threads read consecutive vectors: the pitch of the
// channels is 4 * groups modulo the 32 banks.
constexpr PYPHASE_BOTH int march_columns(int most, int groups) {
  return 4 * (groups - 1) + march_window(most);
}
constexpr PYPHASE_BOTH int march_pitch(int most, int groups) {
  const int columns = march_columns(most, groups);
  return columns + ((4 * groups - columns) % 32 + 32) % 32;
}
// A staged row of a block. In NHWC each four columns are followed by the room of one, so that the
// columns that a warp reads together, four apart, lie in different banks.
constexpr PYPHASE_BOTH int march_row(bool last, int most, int planes, int groups) {
  return planes * (last ? march_columns(most, groups) / 4 * 5 : march_pitch(most, groups));
}

// The backward march. Its registers hold the weights' sums and the K x 4 values of a window; or
// this is a ring in shared memory, for sums of strips, and for 16-bit types where it is half as
// large.
constexpr PYPHASE_BOTH bool backward_ring(int most, int count, int itemsize) {
  return count > 1 || (most > 11 && itemsize == 2);
}
// 512 threads have 128 registers each of an SM's 65536, 384 have 168, 256 all that there are.
constexpr PYPHASE_BOTH int backward_threads(int most, int count, int itemsize) {
  return most <= 7 ? 512 : most <= 11 || backward_ring(most, count, itemsize) ? 384 : 256;
}
// In NHWC, channels of a block: a sector.
constexpr PYPHASE_BOTH int backward_lanes(int itemsize) { return 32 / itemsize; }
// Floats in which the threads of a block leave their sums of `kTogetherDown` taps: in NCHW a tap's
// are an odd number of vectors, in NHWC of rooms of the lanes, so that those who add them up meet
// different banks.
constexpr int kTogetherDown = 8;
constexpr PYPHASE_BOTH int backward_pitch(bool last, int planes, int groups) {
  return last ? (round_to(groups, 32 / planes) + 1) * planes
              : (planes * round_to(groups, 4) / 4 | 1) * 4;
}
constexpr PYPHASE_BOTH int backward_scratch(bool last, int planes, int groups) {
  return kTogetherDown * backward_pitch(last, planes, groups);
}
// Groups of threads beside a tile's own: grad_h of theirs is needed. With an activation it is made
// of h, which needs as many again.
constexpr PYPHASE_BOTH int backward_halo(int most, int activation) {
  return march_left(most) / 4 * (activation != 0 ? 2 : 1);
}

}  // namespace pyphase::conv::cuda
