// How a depthwise problem is cut into tasks, and how each kind of tile is read, convolved, written.
#pragma once

#include "../kernels.h"
#include "../parallel.h"
#include "passes.h"
#include "row_pass.h"
#include "row_straight.h"
#include "tile.h"

namespace pyphase::conv::PYPHASE_ISA {

// Bytes of the rings that a task may hold: they should fit L1 (of 32 KiB), and must fit L2.
constexpr std::int64_t kRingInL1 = 20 * 1024;
constexpr std::int64_t kRingInL2 = 320 * 1024;

// Bytes of the rows of y that are made at a time: they should stay in L1 until they are written.
constexpr std::int64_t kOutBytes = 24 * 1024;

// Tasks that are enough for most machines' threads.
constexpr std::int64_t kTasks = 4;

// Columns that a tile should have for its own sake.
constexpr std::int64_t kLeastColumns = 32;

// Pixels of small planes that should go to one thread.
constexpr std::int64_t kPlanesTogether = 16 * 1024;

// Rows of x between the one in work and the one that is prefetched.
constexpr std::int64_t kAhead = 8;
constexpr std::int64_t kAheadPixels = 1024;  // at least, where rows are read where they lie

// Rows an odd number of cache lines apart spread over all sets of a cache.
template <class T>
constexpr std::int64_t odd_lines(std::int64_t elements) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t lines = (elements + kLine - 1) / kLine;
  return (lines + 1 - lines % 2) * kLine;
}

// Whether rows of tiles run down the image's planes, so that a square of floats is transposed.
inline bool takes_squares(const View &view) { return view.channel != 1 && view.column != 1; }

// Whether an NHWC image's window is one run of pixels, evenly apart, row after row. It isn't where
// rows run down the image, unless it has but one.
template <class S>
bool is_run(const Window<const S> &window) {
  const View &strides = window.strides;
  return strides.channel == 1 &&
         (window.rows == 1 || strides.row == window.columns * strides.column);
}

// The cache lines, if any, that begin with a channel, in each pixel of a window that is a run.
template <class S>
Ahead lines_of(const Window<const S> &window, std::int64_t channel) {
  constexpr std::int64_t kSize = sizeof(S);
  if (!is_run(window) || channel * kSize % 64 != 0) {
    return {};
  }
  return {reinterpret_cast<const char *>(window.data + channel), window.strides.column * kSize,
          window.rows * window.columns};
}

// Tasks that should go to one thread, since what lies next in memory is fetched along: those of
// NHWC whose channels lie side by side in 256 bytes, small planes of NCHW.
template <class S, class Problem>
std::int64_t tasks_together(const Problem &problem, std::int64_t pixel, std::int64_t tasks) {
  const std::int64_t threads = larger(kTasks, most_threads());
  if (problem.in.channel == 1) {
    const std::int64_t line = 256 / (pixel * static_cast<std::int64_t>(sizeof(S)));
    return larger(1, smaller(line, tasks / threads));
  }
  const std::int64_t planes = kPlanesTogether / larger(1, problem.height * problem.width * pixel);
  return larger(1, smaller(planes, tasks / (4 * threads)));
}

// NHWC whose vectors of channels are whole, and need no conversion.
template <class S, class Problem>
bool is_whole(const Problem &problem) {
  return std::is_same_v<S, Compute<S>> && problem.in.channel == 1 && problem.out.channel == 1 &&
         problem.channels % kLanes<Compute<S>> == 0;
}

// Whether a result like x, or like y, is better written past the caches.
template <class S, class Problem>
bool may_stream(const Problem &problem, const void *result) {
  const std::int64_t pixels =
      problem.height * problem.width + problem.out_height * problem.out_width;
  const std::int64_t bytes =
      problem.batch * problem.channels * pixels * static_cast<std::int64_t>(sizeof(S));
  return is_whole<S>(problem) && bytes >= kPastCache &&
         reinterpret_cast<std::uintptr_t>(result) % kVectorBytes == 0;
}

// The inputs that the strips' outputs need along one axis: from output * stride - before to
// output * stride + after.
struct Span {
  std::int64_t before, after;
};

inline Span span(const Depthwise &problem, Axis Strip::*axis) {
  Span all{INT64_MIN, INT64_MIN};
  for (int s = 0; s < problem.count; ++s) {
    const Axis &one = problem.strips[s].*axis;
    all.before = larger(all.before, one.pad);
    all.after = larger(all.after, one.reach() - 1 - one.pad);
  }
  return all;
}

// Planes at least six vectors wide, without stride or dilation along the row.
template <class S>
bool is_planar(const Depthwise &problem) {
  if (problem.in.column != 1 || problem.out.column != 1 || problem.in.channel == 1 ||
      problem.out_width < 6 * kLanes<Compute<S>>) {
    return false;
  }
  for (int s = 0; s < problem.count; ++s) {
    if (problem.strips[s].first.stride != 1 || problem.strips[s].first.dilation != 1) {
      return false;
    }
  }
  return true;
}

template <class S, bool kPlanar>
struct DepthwiseTiles {
  using T = Compute<S>;
  static constexpr std::int64_t kWidth = kLanes<T>;

  const Depthwise &problem;
  Span across, down;
  std::int64_t stride, row_stride;
  std::int64_t blocks;       // vectors of channels in a task
  std::int64_t pixel;        // elements from column to column: 1 if planar, else the channels
  std::int64_t groups;       // tasks across the channels
  std::int64_t tiles;        // tasks across the columns
  std::int64_t columns;      // columns of y in a task
  std::int64_t out_columns;  // of which so many go out at a time
  std::int64_t step;         // rows of y at a time
  std::int64_t gathered;     // rows of x at a time
  std::int64_t row_pitch, ring_pitch, ring_rows;
  std::int64_t weight_size = kWidth, padded_size, scratch_size, pack_size, tasks, together;
  bool parallel;
  bool straight;  // planar, and the first convolutions read x where it lies
  bool direct;    // NHWC that needs no conversion: y is written where it lies
  bool streams;   // the same for a large y: its lines are written whole, past the caches

  DepthwiseTiles(const Depthwise &p, const S *y)
      : problem(p),
        across(span(p, &Strip::first)),
        down(span(p, &Strip::second)),
        stride(p.strips[0].first.stride),
        row_stride(p.strips[0].second.stride) {
    const std::int64_t vectors = kPlanar ? p.channels : (p.channels + kWidth - 1) / kWidth;
    // Planar: unaligned loads of what was just stored would wait, so some rows lie between.
    // Interleaved: a square of floats is transposed at a time; where planes are narrow, rows share
    // it.
    const bool squares = !kPlanar && takes_squares(p.in);
    const std::int64_t steps = (p.out_height + kOutputs - 1) / kOutputs;
    step = squares ? larger(8, kWidth) : (p.out_height + steps - 1) / larger(steps, 1);
    straight = kPlanar;
    for (int s = 0; s < p.count; ++s) {
      const Axis &first = p.strips[s].first;
      straight = straight && straight_rows<S>(first.kernel, first.pad);
    }
    gathered = straight ? 0 : kPlanar ? 4 : squares || p.width < 32 ? larger(8, kWidth) : 1;
    streams = !kPlanar && may_stream<S>(p, y);
    direct = !kPlanar && !streams && is_whole<S>(p);
    choose_channels(vectors);
    choose_columns();
    std::int64_t taps = 0;
    for (int s = 0; s < p.count; ++s) {
      taps += p.strips[s].first.kernel + p.strips[s].second.kernel;
      weight_size += strip_size(s);
    }
    padded_size = gathered * row_pitch;
    tasks = p.batch * groups * tiles;
    together = tasks_together<S>(p, pixel, tasks);
    scratch_size =
        p.count * ring_rows * ring_pitch + step * round_up(out_columns) + padded_size + 2 * kWidth;
    pack_size = (kPlanar ? p.channels : groups * blocks) * weight_size;
    parallel = p.batch * p.channels * p.out_height * p.out_width * taps > 60000;
  }

  // Elements of `count` columns, in whole vectors.
  std::int64_t round_up(std::int64_t count) const {
    return kPlanar ? (count + kWidth - 1) / kWidth * kWidth : count * pixel;
  }

  // A strip's weights: a vector of its first bias, then one for each tap.
  std::int64_t strip_size(int strip) const {
    const Strip &s = problem.strips[strip];
    return (1 + s.first.kernel + s.second.kernel) * kWidth;
  }

  // Rows of the rings, at least, and if all rows are kept.
  std::int64_t all_rows() const {
    return (problem.out_height - 1) * row_stride + down.before + down.after + 1 + gathered;
  }
  std::int64_t least_rows() const {
    return smaller((step - 1) * row_stride + down.before + down.after + 1 + gathered, all_rows());
  }

  // Columns whose rings have room.
  std::int64_t most_columns() const {
    const std::int64_t bytes =
        least_rows() * problem.count * pixel * static_cast<std::int64_t>(sizeof(T));
    return larger(kPlanar ? 8 * kWidth : 16, (kPlanar ? kRingInL1 : kRingInL2) / bytes);
  }

  // NHWC: the channels in 256 bytes, which memory likes; fewer, down to a cache line, where tiles
  // would be narrow against what they read on either side, or threads without work.
  void choose_channels(std::int64_t vectors) {
    const std::int64_t bytes = kWidth * static_cast<std::int64_t>(sizeof(S));
    const std::int64_t enough =
        smaller(problem.out_width, larger(32, 2 * (across.before + across.after)));
    blocks = !kPlanar && problem.in.channel == 1 ? smaller(vectors, larger(1, 256 / bytes)) : 1;
    blocks = larger(blocks, 1);
    const auto choose = [&](std::int64_t count) {
      blocks = count;
      pixel = kPlanar ? 1 : blocks * kWidth;
      groups = (vectors + blocks - 1) / blocks;
    };
    choose(blocks);
    while (blocks * bytes > 64 &&
           (most_columns() < enough || problem.batch * groups * most_tiles() < most_threads())) {
      choose((blocks + 1) / 2);
    }
  }

  std::int64_t most_tiles() const { return larger(problem.out_width / kLeastColumns, 1); }

  // As many columns as keep the rings small enough, in tiles of equal width; fewer, if that lets
  // the threads end sooner. A tile takes the time of its columns and of those that it reads beside
  // them.
  void choose_columns() {
    const Depthwise &p = problem;
    const std::int64_t total = all_rows(), least = least_rows(), most = most_columns();
    tiles = larger((p.out_width + most - 1) / most, 1);
    const std::int64_t images = larger(p.batch * groups, 1), threads = most_threads();
    tiles = larger(tiles, smaller((kTasks + images - 1) / images, p.out_width / 48));
    const auto busiest = [&](std::int64_t count) {
      const std::int64_t width = (p.out_width + count - 1) / count + across.before + across.after;
      return (images * count + threads - 1) / threads * width;
    };
    const std::int64_t most_useful = smaller(most_tiles(), larger(tiles, 4 * threads));
    for (std::int64_t more = tiles + 1; more <= most_useful; ++more) {
      tiles = busiest(more) < busiest(tiles) ? more : tiles;
    }
    columns = (p.out_width + tiles - 1) / tiles;
    if (kPlanar) {
      columns = smaller(round_up(columns), p.out_width);
      // The last vector of a tile ends with it, so that no tile may be narrower than a vector.
      while (columns < p.out_width && p.out_width % columns > 0 && p.out_width % columns < kWidth) {
        columns = smaller(columns + kWidth, p.out_width);
      }
    }
    tiles = columns > 0 ? (p.out_width + columns - 1) / columns : 0;
    const std::int64_t out_bytes = step * pixel * static_cast<std::int64_t>(sizeof(T));
    out_columns = kPlanar ? columns : smaller(columns, larger(4, kOutBytes / larger(out_bytes, 1)));
    const std::int64_t outputs = kPlanar ? round_up(columns) : (columns - 1) * stride + 1;
    row_pitch = odd_lines<T>((outputs + across.before + across.after + 2 * kWidth) * pixel);
    ring_pitch = odd_lines<T>(round_up(columns));
    const std::int64_t bytes = ring_pitch * p.count * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t fit = (bytes * least > kRingInL1 ? kRingInL2 : kRingInL1) / larger(bytes, 1);
    ring_rows = smaller(larger(fit, least), total);
  }

  // One task.
  struct Part {
    std::int64_t image, channel, channels, blocks, column, columns;
    // Pixels of a padded row that lie in the image; the others stay zero.
    std::int64_t first_pixel, pixels, offset;
  };

  Part part(std::int64_t index) const {
    Part out;
    const std::int64_t group = index % groups, tile = index / groups % tiles;
    const std::int64_t lanes = kPlanar ? 1 : kWidth;
    out.image = index / groups / tiles;
    out.channel = group * blocks * lanes;
    out.channels = smaller(blocks * lanes, problem.channels - out.channel);
    out.blocks = (out.channels + lanes - 1) / lanes;
    out.column = tile * columns;
    out.columns = smaller(columns, problem.out_width - out.column);
    const std::int64_t left = out.column * stride - across.before;
    const std::int64_t right = (out.column + out.columns - 1) * stride + across.after + 1;
    out.first_pixel = larger(left, 0);
    out.pixels = larger(smaller(right, problem.width) - out.first_pixel, 0);
    out.offset = out.first_pixel - left;
    return out;
  }

  // For each vector of channels: a vector of biases of y; then, for each strip, its first bias and
  // the weights of both convolutions.
  void pack(T *out) const {
    const std::int64_t vectors = kPlanar ? problem.channels : groups * blocks;
    set_zero(out, vectors * weight_size);
    for (std::int64_t vector = 0; vector < vectors; ++vector, out += weight_size) {
      T *to = out + kWidth;
      for (int s = 0; s < problem.count; to += strip_size(s), ++s) {
        if constexpr (kPlanar) {
          pack_lane(problem.strips[s], vector, to, out);
        } else {
          for (std::int64_t lane = 0; lane < kWidth; ++lane) {
            if (vector * kWidth + lane < problem.channels) {
              pack_lane(problem.strips[s], vector * kWidth + lane, to + lane, out + lane);
            }
          }
        }
      }
    }
  }

  // Writes a lane of every vector, or all lanes.
  static void pack_lane(const Strip &strip, std::int64_t channel, T *out, T *bias2) {
    const auto put = [channel](T *to, const void *from, std::int64_t taps, std::int64_t tap,
                               T otherwise, bool add) {
      const T value =
          from ? load_one(static_cast<const S *>(from) + channel * taps + tap) : otherwise;
      if constexpr (kPlanar) {
        store(to, broadcast(add ? *to + value : value));
      } else {
        *to = add ? *to + value : value;
      }
    };
    put(bias2, strip.bias2, 1, 0, 0, true);
    put(out, strip.bias1, 1, 0, 0, false);
    for (std::int64_t t = 0; t < strip.first.kernel; ++t) {
      put(out += kWidth, strip.weight1, strip.first.kernel, t, 1, false);
    }
    for (std::int64_t t = 0; t < strip.second.kernel; ++t) {
      put(out += kWidth, strip.weight2, strip.second.kernel, t, 1, false);
    }
  }

  // Rows of x into padded rows.
  void read(const Window<const S> &window, T *to) const {
    if constexpr (kPlanar) {
      for (std::int64_t i = 0; i < window.rows; ++i) {
        copy_run(window.data + i * window.strides.row, window.columns, to + i * row_pitch);
      }
    } else {
      gather(window, Tile<T>{to, row_pitch, pixel});
    }
  }

  // Rows of an intermediate: `count` columns of every vector of channels in `part`. `next`: what to
  // ask for meanwhile.
  void convolve_first(const Part &part, const T *from, T *to, std::int64_t rows, std::int64_t count,
                      const T *weights, const Axis &axis, const Window<const S> &next) const {
    if constexpr (kPlanar) {
      convolve_rows(Rows<T>{from, to, row_pitch, ring_pitch, rows, round_up(count) / kWidth,
                            weights + kWidth, axis.kernel, load(weights)});
    } else {
      for (std::int64_t block = 0; block < part.blocks; ++block) {
        convolve(Pass<T>{from + block * kWidth, pixel, row_pitch, to + block * kWidth, pixel,
                         ring_pitch, count, rows, weights, weights + kWidth, axis.kernel,
                         axis.stride, axis.dilation, false, lines_of(next, block * kWidth)});
        weights += weight_size;
      }
    }
  }

  // Rows of results out of a tile with rows `pitch` apart.
  void write(const T *from, std::int64_t pitch, const Window<S> &window) const {
    if constexpr (kPlanar) {
      for (std::int64_t i = 0; i < window.rows; ++i) {
        copy_run(from + i * pitch, window.columns, window.data + i * window.strides.row);
      }
    } else {
      const Tile<const T> tile{from, pitch, pixel};
      if constexpr (std::is_same_v<S, T>) {
        if (streams) {
          return detail::stream_nhwc(window, tile);
        }
      }
      scatter(window, tile);
    }
  }
};

}  // namespace pyphase::conv::PYPHASE_ISA
