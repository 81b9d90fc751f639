// The dense pair in its own axes, and how it is cut into tasks.
#pragma once

#include <cstdlib>

#include "dense_pass.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

// Axis a is that of the first convolution, b that of the second.
struct Extents {
  long x_a, mid_a;  // along a: x; the intermediate and y
  long b, y_b;      // along b: x and the intermediate; y

  explicit Extents(const Pair &p)
      : x_a(p.row_first ? p.width : p.height),
        mid_a(p.row_first ? p.out_width : p.out_height),
        b(p.row_first ? p.height : p.width),
        y_b(p.row_first ? p.out_height : p.out_width) {}
};

inline const Axis &first_axis(const Pair &p) { return p.row_first ? p.row : p.column; }
inline const Axis &second_axis(const Pair &p) { return p.row_first ? p.column : p.row; }

// An image in memory, in elements.
struct Image {
  long batch, row, column, channel;
  long a, b;  // those of row and column that belong to the pair's axes

  static Image of(const Pair &p, long channels, long height, long width) {
    Image image;
    image.batch = channels * height * width;
    image.row = p.channels_last ? width * channels : width;
    image.column = p.channels_last ? channels : 1;
    image.channel = p.channels_last ? 1 : height * width;
    image.a = p.row_first ? image.column : image.row;
    image.b = p.row_first ? image.row : image.column;
    return image;
  }
};

// Lines along a are windows of rows or of columns, as the pair's order has it.
inline Window window(const Pair &p, long a, long b, long channels) {
  return p.row_first ? Window{b, a, channels} : Window{a, b, channels};
}

// A buffer of a x b pixels, [row][column][channel].
struct Buffer {
  long row, column, a, b;

  static Buffer of(const Pair &p, long a, long b, long channels) {
    Buffer buffer;
    buffer.column = channels;
    buffer.row = (p.row_first ? a : b) * channels;
    buffer.a = p.row_first ? buffer.column : buffer.row;
    buffer.b = p.row_first ? buffer.row : buffer.column;
    return buffer;
  }
};

// Part i of n that is cut into `parts` nearly equal ones at multiples of `grain`, the larger ones
// first: begun in this order, they keep several threads busy to the end. What is left over of n
// goes to a part of the smaller ones, which lies last.
inline Range part(long n, long parts, long i, long grain = 1) {
  const long least = n / grain / parts, larger = n / grain % parts;  // in grains
  if (i == larger) {
    return {(n / grain - least) * grain, n};
  }
  const long begin = i < larger ? i * (least + 1) : i * least - least + larger;
  return {begin * grain, (begin + least + (i < larger ? 1 : 0)) * grain};
}

// Whether a channels-last y is better written past the caches; a panel then writes whole lines.
inline bool may_stream(const Pair &p, const float *y_data) {
  constexpr long kLine = 64 / sizeof(float);
  const long x = p.height * p.width * p.channels[0], y = p.out_height * p.out_width * p.channels[2];
  return p.channels_last && kPanel % kLine == 0 && p.channels[2] % kLine == 0 &&
         4 * p.batch * (x + y) >= kPastCache && reinterpret_cast<std::uintptr_t>(y_data) % 64 == 0;
}

constexpr long kL2 = 512 * 1024;
constexpr long kEnoughTasks = 8;

}  // namespace pyphase::conv::PYPHASE_ISA::dense
