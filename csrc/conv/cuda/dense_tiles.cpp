// Tiles, launches, arguments and workspace of the dense kernels. Longer than other files: all
// follow from one set of shapes.
#include <algorithm>
#include <limits>
#include <utility>

#include "dense_launch.h"

namespace pyphase::conv::cuda {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<int>::max();

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }
int whole(std::int64_t value) { return static_cast<int>(value); }

int columns(const DenseWeights &weights) { return weights.outputs <= 32 ? 32 : 64; }  // of a pass

std::int64_t steps(const DenseWeights &weights, int itemsize) {
  return std::int64_t{weights.inputs} * itemsize / weights.chunk * weights.taps;
}

// Clocks of an SM that a block needs: its products, at the rate of the SM's units, or its loads
// from shared memory, and a fixed cost of a step (a barrier, addresses, the copy of weights).
//
// Multiply-adds a clock and SM, one set for all targets, to compare tiles with: sm_80's tensor
// cores (1024 of 16 bits, 512 of TF32; 8.6, 8.9 and 12.0 have a quarter), and 128 FMA units (sm_80
// has 64). Shared memory gives 128 bytes a clock. A step of a warp loads 32 rows and a half of the
// columns.
struct Cost {
  int itemsize, rate;

  std::int64_t pass(const DenseWeights &weights) const {
    const std::int64_t products =
        std::int64_t{kDenseRows} * columns(weights) * weights.inputs * weights.taps / rate;
    const std::int64_t loads =
        steps(weights, itemsize) * 8 * (32 + columns(weights) / 2) * weights.chunk / 128;
    constexpr int kStep = 40;
    return std::max(products, loads) + steps(weights, itemsize) * kStep;
  }

  // 64 bytes a clock from L2, and an instruction for 16 of them in each of four quarters.
  std::int64_t stage(const DensePairArgs &args) const {
    return std::int64_t{args.reach} * args.lines * args.first.inputs * itemsize / 32;
  }

  std::int64_t block(const DensePairArgs &args) const {
    const auto passes = [](const DenseWeights &w) { return w.outputs / columns(w); };
    const std::int64_t first = ceil_div(args.mid_lines, args.lines) * passes(args.first);
    const std::int64_t second = ceil_div(args.tile_b, args.lines) * passes(args.second);
    return first * (pass(args.first) + stage(args)) + second * pass(args.second);
  }
};

Cost cost_of(DenseMath math) {
  switch (math) {
    case DenseMath::kTf32:
      return {4, 512};
    case DenseMath::kFma:
      return {4, 128};
    default:
      return {2, 1024};
  }
}

// Blocks that an SM holds: by shared memory (1 KiB of it is the system's, for each block), by 128
// registers a thread, by threads.
std::int64_t residents(std::int64_t shared, const Device &device) {
  const std::int64_t by_registers = device.registers_per_sm / (128 * kDenseThreads);
  const std::int64_t by_threads = device.threads_per_sm / kDenseThreads;
  return std::min({device.shared_per_sm / (shared + 1024), by_registers, by_threads});
}

double pass_products(const DenseWeights &w) {
  return double{kDenseRows} * w.outputs * w.inputs * w.taps;
}

struct Candidate {
  std::int64_t shared, tiles, clocks;  // bytes; blocks of an image; of a block
};

// Whether tiles of this size cut a length equally, the last one aside.
bool is_equal_cut(std::int64_t length, std::int64_t tile) {
  return ceil_div(length, ceil_div(length, tile)) == tile;
}

// The tiles of the least cost among equal cuts of both axes.
template <class Make>
Launch search(const char *kernel, const DenseShape &shape, const Device &device, Make make) {
  Launch best;
  best.grid[0] = 0;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  const std::int64_t lines =
      shape.second.stride == 1 ? ceil_div(shape.out_b, shape.second.dilation) : shape.out_b;
  const std::int64_t most_a = std::min<std::int64_t>(shape.out_a, kDenseRows);
  for (std::int64_t a = most_a; a >= std::min<std::int64_t>(most_a, 4); --a) {
    const std::int64_t reach = (a - 1) * shape.first.stride + shape.first.reach();
    if (!is_equal_cut(shape.out_a, a) || reach > 1 << 12) {
      continue;
    }
    constexpr std::int64_t kMostPixels = 1 << 14;  // far beyond what shared memory holds
    for (std::int64_t b = std::min(lines, kMostPixels); b > 0; --b) {
      const std::int64_t mid = (b - 1) * shape.second.stride + shape.second.kernel;
      if (!is_equal_cut(lines, b) || mid * a > kMostPixels) {
        continue;
      }
      const int tile_a = whole(a), tile_b = whole(b);
      const Candidate found = make(tile_a, tile_b);
      const std::int64_t blocks = shape.batch * found.tiles;
      if (found.shared > device.shared_per_block || blocks > kMost) {
        continue;
      }
      const std::int64_t together = residents(found.shared, device);
      if (together < 1) {
        continue;
      }
      // A lone block leaves the units idle at its barriers: an assumed quarter.
      const std::int64_t waves = ceil_div(blocks, device.sms * together);
      const std::int64_t share = std::min(together, ceil_div(blocks, device.sms));
      const std::int64_t clocks = waves * share * found.clocks * (share == 1 ? 5 : 4);
      if (clocks < least) {
        least = clocks;
        best.kernel = kernel;
        best.grid = {static_cast<unsigned>(blocks), 1, 1};
        best.block = {kDenseThreads, 1, 1};
        best.shared = static_cast<unsigned>(found.shared);
        best.choice[kDenseMath] = static_cast<int>(shape.math);
        best.choice[kDenseTileA] = tile_a;
        best.choice[kDenseTileB] = tile_b;
      }
    }
  }
  return best;
}

}  // namespace

DenseMath dense_math(Scalar scalar, bool tf32) {
  if (scalar == Scalar::f32) {
    return tf32 ? DenseMath::kTf32 : DenseMath::kFma;
  }
  return scalar == Scalar::f16 ? DenseMath::kHalf : DenseMath::kBfloat16;
}

int dense_itemsize(DenseMath math) { return cost_of(math).itemsize; }

DenseShape dense_shape(const Pair &p, DenseMath math) {
  const bool row = p.row_first;
  return {p.batch,
          {p.channels[0], p.channels[1], p.channels[2]},
          row ? p.width : p.height,
          row ? p.height : p.width,
          row ? p.out_width : p.out_height,
          row ? p.out_height : p.out_width,
          row ? p.height : p.width,
          1,
          1,
          row ? p.row : p.column,
          row ? p.column : p.row,
          row,
          p.channels_last,
          math};
}

DenseWeights dense_weights(std::int64_t inputs, std::int64_t outputs, const Axis &axis,
                           int itemsize) {
  DenseWeights weights{};
  weights.taps = whole(axis.kernel);
  weights.dilation = whole(axis.dilation);
  weights.chunk = inputs * itemsize <= 32 ? 32 : 64;
  weights.inputs = whole(round_up(inputs, weights.chunk / itemsize));
  weights.outputs = whole(round_up(outputs, outputs <= 32 ? 32 : 64));
  weights.channels = whole(outputs);
  return weights;
}

std::int64_t dense_weight_bytes(const DenseWeights &weights, int itemsize) {
  return round_up(std::int64_t{weights.taps} * weights.inputs * weights.outputs * itemsize, 256);
}

DensePairArgs dense_pair_args(const DenseShape &s, int tile_a, int tile_b) {
  const int itemsize = dense_itemsize(s.math), vector = 16 / itemsize;
  DensePairArgs args{};
  // Strides of an image of this layout in pixels and channels: rows are horizontal.
  const auto place = [&](std::int64_t channels, std::int64_t size_a, std::int64_t size_b,
                         int &channel, int &a, int &b) {
    const std::int64_t pixel = s.channels_last ? channels : 1;
    const std::int64_t line = (s.row_first ? size_a : size_b) * pixel;
    channel = whole(s.channels_last ? 1 : size_a * size_b);
    a = whole(s.row_first ? pixel : line);
    b = whole(s.row_first ? line : pixel);
    return channels * size_a * size_b;
  };
  args.x.image = place(s.channels[0], s.size_a, s.size_b, args.x.channel, args.x.a, args.x.b);
  args.x.channels = whole(s.channels[0]);
  args.x.size_a = whole(s.size_a);
  args.x.size_b = whole(s.size_b);
  args.x.up_a = whole(s.up_a);
  args.x.up_b = whole(s.up_b);
  args.x.vectors = s.channels_last && s.channels[0] % vector == 0;
  args.first = dense_weights(s.channels[0], s.channels[1], s.first, itemsize);
  args.second = dense_weights(s.channels[1], s.channels[2], s.second, itemsize);
  args.y_image = place(s.channels[2], s.out_a, s.out_b, args.y_channel, args.y_a, args.y_b);
  args.out_a = whole(s.out_a);
  args.out_b = whole(s.out_b);
  args.y_pairs = s.channels_last && s.channels[2] % 2 == 0;
  args.stride_a = whole(s.first.stride);
  args.stride_b = whole(s.second.stride);
  args.pad_a = whole(s.first.pad);
  args.pad_b = whole(s.second.pad);
  args.mid_b = whole(s.mid_b);
  args.tile_a = tile_a;
  args.tile_b = tile_b;
  args.tiles_a = whole(ceil_div(s.out_a, tile_a));
  args.step = whole(s.second.stride == 1 ? s.second.dilation : 1);
  args.tap_lines = whole(s.second.dilation / args.step);
  args.tiles_b = whole(args.step * ceil_div(ceil_div(s.out_b, args.step), tile_b));
  args.mid_lines =
      whole((tile_b - 1) * s.second.stride + (s.second.kernel - 1) * args.tap_lines + 1);
  args.lines = std::min(kDenseRows / tile_a, args.mid_lines);
  args.reach = whole((tile_a - 1) * s.first.stride + s.first.reach());
  args.phase = whole(ceil_div(args.reach, s.first.stride));
  const int slots = args.phase * args.stride_a;
  args.slots = slots + ((tile_a - slots) % 8 + 8) % 8;
  // A tap more or less of one chunk is two steps: two chunks are in use, or three.
  args.buffers = args.first.taps == 1 ? 3 : 2;
  args.mid_pitch = args.second.inputs * itemsize + 16;
  args.x_offset = whole(round_up(std::int64_t{args.mid_lines} * tile_a * args.mid_pitch, 16));
  args.weight_offset =
      args.x_offset + args.buffers * args.lines * args.slots * dense_pitch(args.first.chunk);
  args.a_contiguous = s.row_first;
  return args;
}

std::int64_t dense_shared_bytes(const DensePairArgs &args) {
  const int rows = std::max(columns(args.first) * dense_pitch(args.first.chunk),
                            columns(args.second) * dense_pitch(args.second.chunk));
  return args.weight_offset + std::int64_t{kDenseStages} * rows;
}

// Along each axis: what the tiles read of an image that is there, zeros between pixels aside.
std::int64_t dense_read_pixels(const DensePairArgs &args) {
  // Of `count` coordinates from `begin`, `step` apart.
  const auto inside = [](std::int64_t begin, int step, int count, int size, int up) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = begin + i * step;
      sum += at >= 0 && at % up == 0 && at / up < size;
    }
    return sum;
  };
  std::int64_t along_a = 0, along_b = 0;
  for (std::int64_t i = 0; i < args.tiles_a; ++i) {
    along_a += inside(i * args.tile_a * args.stride_a - args.pad_a, 1, args.reach, args.x.size_a,
                      args.x.up_a);
  }
  for (std::int64_t i = 0; i < args.tiles_b; ++i) {
    const std::int64_t b = i % args.step + i / args.step * args.tile_b * args.step;
    along_b += inside(b * args.stride_b - args.pad_b, args.step, args.mid_lines, args.x.size_b,
                      args.x.up_b);
  }
  return along_a * along_b;
}

double dense_products(const DensePairArgs &args) {
  return static_cast<double>(ceil_div(args.mid_lines, args.lines)) * pass_products(args.first) +
         static_cast<double>(ceil_div(args.tile_b, args.lines)) * pass_products(args.second);
}

double dense_gradient_products(const DenseGradientArgs &all) {
  const std::int64_t passes = ceil_div(all.pair.mid_lines, all.pair.lines);
  return dense_products(all.pair) + static_cast<double>(passes) * pass_products(all.weights);
}

Launch dense_pack_launch(const DenseWeights &weights, int itemsize) {
  Launch launch;
  launch.kernel = kDensePack;
  launch.choice[kDenseParts] = itemsize;
  const std::int64_t elements = std::int64_t{weights.taps} * weights.inputs * weights.outputs;
  launch.grid[0] = static_cast<unsigned>(ceil_div(elements, kDenseThreads));
  launch.block[0] = kDenseThreads;
  return launch;
}

Launch dense_pair_launch(const DenseShape &shape, const Device &device) {
  const Cost cost = cost_of(shape.math);
  return search(kDensePair, shape, device, [&](int tile_a, int tile_b) {
    const DensePairArgs args = dense_pair_args(shape, tile_a, tile_b);
    return Candidate{dense_shared_bytes(args), std::int64_t{args.tiles_a} * args.tiles_b,
                     cost.block(args)};
  });
}

Launch dense_gradient_launch(const DenseShape &shape, const Device &device) {
  const Cost cost = cost_of(shape.math);
  return search(kDenseGradient, dense_transpose(shape), device, [&](int tile_a, int tile_b) {
    const DenseGradientArgs all = dense_gradient_args(shape, tile_a, tile_b);
    const DensePairArgs &args = all.pair;
    const std::int64_t again = ceil_div(args.mid_lines, args.lines) *
                               (all.weights.outputs / columns(all.weights)) *
                               cost.pass(all.weights);
    return Candidate{dense_gradient_shared_bytes(all), std::int64_t{args.tiles_a} * args.tiles_b,
                     cost.block(args) + again};
  });
}

DenseShape dense_transpose(const DenseShape &s) {
  const auto flipped = [](const Axis &axis) {
    return Axis{axis.kernel, 1, axis.dilation, axis.reach() - 1 - axis.pad};
  };
  return {s.batch,          {s.channels[2], s.channels[1], s.channels[0]},
          s.out_b,          s.out_a,
          s.size_b,         s.size_a,
          s.out_a,          s.second.stride,
          s.first.stride,   flipped(s.second),
          flipped(s.first), !s.row_first,
          s.channels_last,  s.math};
}

// The images that weights' gradients are sums over must hold all of the intermediate: what a tile
// does not own, the one before or after it does.
bool dense_has_gradient(const DenseShape &s) {
  const Axis &first = s.first;
  return first.pad <= first.reach() - 1 && (s.out_a - 1) * first.stride + 1 <= s.size_a + first.pad;
}

DenseGradientArgs dense_gradient_args(const DenseShape &s, int tile_a, int tile_b) {
  DenseGradientArgs all{};
  all.pair = dense_pair_args(dense_transpose(s), tile_a, tile_b);
  const DensePairArgs forward = dense_pair_args(s, 1, 1);
  all.x = forward.x;  // along the axes of the transpose
  std::swap(all.x.a, all.x.b);
  std::swap(all.x.size_a, all.x.size_b);
  all.weights = forward.first;
  all.pad = forward.pad_a;
  all.halo_lines = (all.weights.taps - 1) * all.pair.tap_lines;
  all.buffers = all.weights.taps == 1 ? 3 : 2;
  DensePairArgs &args = all.pair;
  const std::int64_t x_bytes = std::int64_t{all.buffers} * (args.lines + all.halo_lines) * tile_a *
                               dense_pitch(all.weights.chunk);
  args.weight_offset = whole(std::max<std::int64_t>(args.weight_offset, args.x_offset + x_bytes));
  return all;
}

std::int64_t dense_gradient_shared_bytes(const DenseGradientArgs &all) {
  return std::max(dense_shared_bytes(all.pair),
                  std::int64_t{all.pair.weight_offset} +
                      kDenseStages * columns(all.weights) * dense_pitch(all.weights.chunk));
}

DenseWeightArgs dense_weight_args(const DenseShape &s, bool second, int parts) {
  const DenseShape turned = dense_transpose(s);
  const DensePairArgs forward = dense_pair_args(s, 1, 1), back = dense_pair_args(turned, 1, 1);
  const int width = back.second.inputs;  // of a row of the intermediate
  DenseWeightArgs args{};
  const Axis &axis = second ? s.second : s.first;
  args.taps = whole(axis.kernel);
  args.stride = whole(axis.stride);
  args.dilation = whole(axis.dilation);
  args.pad = whole(axis.pad);
  DenseOperand mid{};
  mid.image = turned.mid_b * turned.out_a * width;
  mid.channels = width;
  mid.channel = 1;
  mid.vectors = 1;
  const int along_a = width, along_b = whole(turned.out_a) * width;
  if (second) {  // along the transpose's a: grad_y times the intermediate
    args.pixels_u = whole(s.out_b);
    args.pixels_v = whole(s.out_a);
    args.p = {nullptr,  back.x.image, back.x.channels, back.x.channel,
              back.x.a, back.x.b,     args.pixels_u,   back.x.vectors};
    args.q = mid;
    args.q.u = along_a;
    args.q.v = along_b;
    args.q.size_u = whole(turned.out_a);
  } else {  // along its b: the intermediate's gradient times x
    args.pixels_u = whole(s.out_a);
    args.pixels_v = whole(s.size_b);
    args.p = mid;
    args.p.u = along_b;
    args.p.v = along_a;
    args.p.size_u = args.pixels_u;
    args.q = {nullptr,     forward.x.image, forward.x.channels, forward.x.channel,
              forward.x.a, forward.x.b,     forward.x.size_a,   forward.x.vectors};
  }
  args.pixels = whole(s.batch * args.pixels_u * args.pixels_v);
  args.part = whole(round_up(ceil_div(args.pixels, parts), kDensePixels));
  args.p_tiles = whole(ceil_div(s.channels[second ? 2 : 1], kDenseTile));
  args.q_tiles = whole(ceil_div(s.channels[second ? 1 : 0], kDenseTile));
  args.u_contiguous = s.row_first != second;
  return args;
}

// Four blocks an SM in all, parts of 256 pixels or more, at most 64 of them: their sums are written
// and read once.
Launch dense_weight_launch(const DenseShape &s, bool second, const Device &device) {
  const DenseWeightArgs one = dense_weight_args(s, second, 1);
  const std::int64_t tiles = std::int64_t{one.taps} * one.p_tiles * one.q_tiles;
  const std::int64_t wanted = std::clamp<std::int64_t>(
      ceil_div(4 * device.sms, tiles), 1, std::clamp<std::int64_t>(one.pixels / 256, 1, 64));
  const std::int64_t parts = ceil_div(one.pixels, dense_weight_args(s, second, whole(wanted)).part);
  const int itemsize = dense_itemsize(s.math);
  Launch launch;
  launch.kernel = kDenseWeight;
  launch.grid[0] = static_cast<unsigned>(tiles * parts);
  launch.block[0] = kDenseThreads;
  const int pitch = kDenseTile * itemsize + (itemsize == 2 ? 16 : 32);
  launch.shared = static_cast<unsigned>(kDenseStages * 2 * kDensePixels * pitch);
  launch.choice[kDenseMath] = static_cast<int>(s.math);
  launch.choice[kDenseParts] = whole(parts);
  return launch;
}

DenseReduceArgs dense_reduce_args(const DenseShape &s, const DenseWeightArgs &args, bool second,
                                  int parts) {
  DenseReduceArgs reduce{};
  reduce.parts = parts;
  reduce.taps = args.taps;
  reduce.p = whole(s.channels[second ? 2 : 1]);
  reduce.q = whole(s.channels[second ? 1 : 0]);
  reduce.padded_p = args.p_tiles * kDenseTile;
  reduce.padded_q = args.q_tiles * kDenseTile;
  return reduce;
}

Launch dense_reduce_launch(const DenseReduceArgs &args, DenseMath math) {
  Launch launch;
  launch.kernel = kDenseReduce;
  const std::int64_t elements = (std::int64_t{args.q} * args.taps + 1) * args.p;
  launch.grid[0] = static_cast<unsigned>(ceil_div(elements, kDenseThreads));
  launch.block[0] = kDenseThreads;
  launch.choice[kDenseMath] = static_cast<int>(math);
  return launch;
}

DenseWorkspace dense_workspace(const DenseShape &s, const DenseGradientArgs &all,
                               const int (&parts)[2]) {
  const int itemsize = dense_itemsize(s.math);
  DenseWorkspace at{};
  const auto take = [&](std::int64_t &offset, std::int64_t bytes) {
    offset = at.size;
    at.size += round_up(bytes, 256);
  };
  take(at.back_second, dense_weight_bytes(all.pair.first, itemsize));
  take(at.back_first, dense_weight_bytes(all.pair.second, itemsize));
  take(at.again, dense_weight_bytes(all.weights, itemsize));
  const std::int64_t image = s.batch * s.out_a * s.size_b * all.pair.second.inputs * itemsize;
  take(at.mid, image);
  take(at.grad_mid, image);
  for (int i = 0; i < 2; ++i) {
    const DenseWeightArgs args = dense_weight_args(s, i == 1, parts[i]);
    const std::int64_t rows = std::int64_t{parts[i]} * args.p_tiles * kDenseTile;
    take(at.partial[i], rows * args.taps * args.q_tiles * kDenseTile * 4);
    take(at.partial_bias[i], rows * 4);
  }
  return at;
}

}  // namespace pyphase::conv::cuda
