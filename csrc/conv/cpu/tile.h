// Between images in memory and tiles: [row][column][lane] with a lane for each channel of a block.
//
// In a tile both convolutions of a pair are the same loop over whole vectors, and every layout and
// scalar type looks alike. NHWC images are copied vector by vector, NCHW ones are transposed in
// registers, a square of lanes x pixels at a time. Reads and writes stay inside the image.
#pragma once

#include "../kernels.h"
#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

// A window of an image: `rows` x `columns` pixels of `channels` channels.
template <class S>
struct Window {
  S *data;
  View strides;
  std::int64_t rows, columns, channels;
};

// Where a window's pixels go: rows `pitch` elements apart, each pixel `pixel` elements of channels.
template <class T>
struct Tile {
  T *data;
  std::int64_t pitch, pixel;
};

namespace detail {

// Where run after run of pixels lies in a tile: `columns` vectors in a row, then the next row.
template <class T>
struct Cursor {
  T *at;
  std::int64_t step, columns, skip;  // skip: from the end of a row to the next row's start
  std::int64_t column = 0;

  void skip_to(std::int64_t pixel) {
    at += pixel * step + pixel / columns * skip;
    column = pixel % columns;
  }

  PYPHASE_INLINE T *next() {
    T *here = at;
    at += step;
    if (++column == columns) {
      column = 0;
      at += skip;
    }
    return here;
  }
};

// `length` pixels that lie side by side in every channel's plane, into the tile.
template <class S, class T>
PYPHASE_INLINE void load_run(S *const *plane, std::int64_t length, Cursor<T> cursor) {
  constexpr int kWidth = kLanes<T>;
  const Cursor<T> start = cursor;
  for (std::int64_t pixel = 0; pixel < length && length >= kWidth; pixel += kWidth) {
    if (pixel + kWidth > length) {
      pixel = length - kWidth;  // the last square overlaps
      cursor = start;
      cursor.skip_to(pixel);
    }
    Vec<T> square[kWidth];
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      square[lane] = load(plane[lane] + pixel);
    }
    transpose<T>(square);
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      store(cursor.next(), square[i]);
    }
  }
  for (std::int64_t pixel = 0; pixel < length && length < kWidth; ++pixel) {
    T *out = cursor.next();
    for (int lane = 0; lane < kWidth; ++lane) {
      out[lane] = load_one(plane[lane] + pixel);
    }
  }
}

template <class S, class T>
PYPHASE_INLINE void store_run(S *const *plane, int channels, std::int64_t length,
                              Cursor<const T> cursor) {
  constexpr int kWidth = kLanes<T>;
  const Cursor<const T> start = cursor;
  for (std::int64_t pixel = 0; pixel < length && length >= kWidth; pixel += kWidth) {
    if (pixel + kWidth > length) {
      pixel = length - kWidth;  // the last square overlaps
      cursor = start;
      cursor.skip_to(pixel);
    }
    Vec<T> square[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      square[i] = load(cursor.next());
    }
    transpose<T>(square);
    if (channels == kWidth) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kWidth; ++lane) {
        store(plane[lane] + pixel, square[lane]);
      }
    } else {
      for (int lane = 0; lane < channels; ++lane) {
        store(plane[lane] + pixel, square[lane]);
      }
    }
  }
  for (std::int64_t pixel = 0; pixel < length && length < kWidth; ++pixel) {
    const T *in = cursor.next();
    for (int lane = 0; lane < channels; ++lane) {
      store_one(plane[lane] + pixel, in[lane]);
    }
  }
}

// Pixels whose channels lie side by side.
template <class S, class T>
void gather_nhwc(Window<const S> window, const Tile<T> &tile) {
  constexpr int kWidth = kLanes<T>;
  if (window.channels == window.strides.column && window.channels == tile.pixel) {
    window.channels = tile.pixel * window.columns;  // a row is one long pixel
    window.columns = 1;
  }
  const std::int64_t whole = window.channels / kWidth, rest = window.channels % kWidth;
  for (std::int64_t i = 0; i < window.rows; ++i) {
    const S *from = window.data + i * window.strides.row;
    T *to = tile.data + i * tile.pitch;
    for (std::int64_t j = 0; j < window.columns; ++j) {
#pragma GCC unroll 4
      for (std::int64_t b = 0; b < whole; ++b) {
        store(to + b * kWidth, load(from + b * kWidth));
      }
      for (std::int64_t lane = 0; lane < rest; ++lane) {
        to[whole * kWidth + lane] = load_one(from + whole * kWidth + lane);
      }
      from += window.strides.column;
      to += tile.pixel;
    }
  }
}

template <class S, class T>
void scatter_nhwc(const Window<S> &window, const Tile<const T> &tile) {
  constexpr int kWidth = kLanes<T>;
  const std::int64_t whole = window.channels / kWidth, rest = window.channels % kWidth;
  for (std::int64_t i = 0; i < window.rows; ++i) {
    S *to = window.data + i * window.strides.row;
    const T *from = tile.data + i * tile.pitch;
    for (std::int64_t j = 0; j < window.columns; ++j) {
      for (std::int64_t b = 0; b < whole; ++b) {
        store(to + b * kWidth, load(from + b * kWidth));
      }
      for (std::int64_t lane = 0; lane < rest; ++lane) {
        store_one(to + whole * kWidth + lane, from[whole * kWidth + lane]);
      }
      to += window.strides.column;
      from += tile.pixel;
    }
  }
}

// The same past the caches, for whole vectors of channels.
template <Real T>
void stream_nhwc(const Window<T> &window, const Tile<const T> &tile) {
  for (std::int64_t i = 0; i < window.rows; ++i) {
    T *to = window.data + i * window.strides.row;
    const T *from = tile.data + i * tile.pitch;
    for (std::int64_t j = 0; j < window.columns; ++j) {
      for (std::int64_t lane = 0; lane < window.channels; lane += kLanes<T>) {
        stream(to + lane, load(from + lane));
      }
      to += window.strides.column;
      from += tile.pixel;
    }
  }
}

// One block of planes. `kRun(planes, length, cursor)` moves a run of pixels.
template <class S, class T, class Run>
PYPHASE_INLINE void each_run(const Window<S> &window, S **plane, int planes, const Tile<T> &tile,
                             const Run &run) {
  const auto [data, pitch, pixel] = tile;
  const View &strides = window.strides;
  const auto advance = [plane, planes](std::int64_t by) {
    for (int lane = 0; lane < planes; ++lane) {
      plane[lane] += by;
    }
  };
  if (strides.column != 1) {  // rows and columns are exchanged: runs go down the tile
    for (std::int64_t j = 0; j < window.columns; ++j) {
      run(plane, window.rows, Cursor<T>{data + j * pixel, pitch, window.rows, 0});
      advance(strides.column);
    }
  } else if (strides.row == window.columns) {  // whole rows: one run
    run(plane, window.rows * window.columns,
        Cursor<T>{data, pixel, window.columns, pitch - window.columns * pixel});
  } else {
    for (std::int64_t i = 0; i < window.rows; ++i) {
      run(plane, window.columns, Cursor<T>{data + i * pitch, pixel, window.columns, 0});
      advance(strides.row);
    }
  }
}

}  // namespace detail

// `length` elements side by side, from one scalar type to another.
template <class From, class To>
PYPHASE_INLINE void copy_run(const From *from, std::int64_t length, To *to) {
  constexpr int kWidth = kLanes<Compute<From>>;
  std::int64_t i = 0;
  for (; i + kWidth <= length; i += kWidth) {
    store(to + i, load(from + i));
  }
  if (i < length && length >= kWidth) {  // the last vector overlaps
    store(to + length - kWidth, load(from + length - kWidth));
    return;
  }
  for (; i < length; ++i) {
    store_one(to + i, load_one(from + i));
  }
}

// window -> tile. Lanes beyond the window's channels keep what they hold, or take copies.
template <class S, class T>
void gather(const Window<const S> &window, const Tile<T> &tile) {
  constexpr int kWidth = kLanes<T>;
  if (window.strides.channel == 1) {
    detail::gather_nhwc(window, tile);
    return;
  }
  for (std::int64_t first = 0; first < window.channels; first += kWidth) {
    const S *plane[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      const std::int64_t channel = first + lane;
      const std::int64_t last = window.channels - 1;
      plane[lane] = window.data + (channel < last ? channel : last) * window.strides.channel;
    }
    detail::each_run(window, plane, kWidth, Tile<T>{tile.data + first, tile.pitch, tile.pixel},
                     [](const S *const *planes, std::int64_t length, detail::Cursor<T> cursor) {
                       detail::load_run<const S, T>(planes, length, cursor);
                     });
  }
}

// Asks for a window's lines to be brought to L2, or to L1 to be written.
template <int kRead0Write1, int kLocality, class S>
PYPHASE_INLINE void prefetch(const Window<S> &window) {
  constexpr std::int64_t kLine = 64 / sizeof(S);
  const View &strides = window.strides;
  for (std::int64_t i = 0; i < window.rows; ++i) {
    const S *row = window.data + i * strides.row;
    if (strides.channel == 1) {
      for (std::int64_t c = 0; c < window.channels; c += kLine) {
        const S *at = row + c;
        for (std::int64_t j = 0; j < window.columns; ++j, at += strides.column) {
          __builtin_prefetch(at, kRead0Write1, kLocality);
        }
      }
    } else if (strides.column == 1) {
      for (std::int64_t channel = 0; channel < window.channels; ++channel) {
        for (std::int64_t j = 0; j < window.columns; j += kLine) {
          __builtin_prefetch(row + channel * strides.channel + j, kRead0Write1, kLocality);
        }
      }
    }
  }
}

// tile -> window.
template <class S, class T>
void scatter(const Window<S> &window, const Tile<const T> &tile) {
  constexpr int kWidth = kLanes<T>;
  if (window.strides.channel == 1) {
    detail::scatter_nhwc(window, tile);
    return;
  }
  for (std::int64_t first = 0; first < window.channels; first += kWidth) {
    const std::int64_t left = window.channels - first;
    const int planes = left < kWidth ? static_cast<int>(left) : kWidth;
    S *plane[kWidth];
    for (int lane = 0; lane < planes; ++lane) {
      plane[lane] = window.data + (first + lane) * window.strides.channel;
    }
    detail::each_run(window, plane, planes,
                     Tile<const T>{tile.data + first, tile.pitch, tile.pixel},
                     [planes](S *const *at, std::int64_t length, detail::Cursor<const T> cursor) {
                       detail::store_run<S, T>(at, planes, length, cursor);
                     });
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA
