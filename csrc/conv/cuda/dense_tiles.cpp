#include <algorithm>
#include <limits>

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
// Multiply-adds a clock and SM of sm_80, the least of the targets: 1024 of 16 bits, 512 of TF32 on
// tensor cores, 128 in FMA units. Shared memory gives 128 bytes a clock. A step of a warp loads
// 32 rows and a half of the columns.
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
  args.tiles_b = whole(ceil_div(s.out_b, tile_b));
  args.lines = kDenseRows / tile_a;
  args.mid_lines = whole((tile_b - 1) * s.second.stride + s.second.reach());
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
  const auto along = [](int tiles, int step, int pad, int reach, int size, int up) {
    std::int64_t sum = 0;
    for (int i = 0; i < tiles; ++i) {
      const std::int64_t begin = std::int64_t{i} * step - pad;
      const auto before = [&](std::int64_t at) {  // pixels at coordinates below `at`
        return std::clamp<std::int64_t>(ceil_div(std::max<std::int64_t>(at, 0), up), 0, size);
      };
      sum += before(begin + reach) - before(begin);
    }
    return sum;
  };
  return along(args.tiles_a, args.tile_a * args.stride_a, args.pad_a, args.reach, args.x.size_a,
               args.x.up_a) *
         along(args.tiles_b, args.tile_b * args.stride_b, args.pad_b, args.mid_lines, args.x.size_b,
               args.x.up_b);
}

double dense_products(const DensePairArgs &args) {
  const auto pass = [](const DenseWeights &w) {
    return double{kDenseRows} * w.outputs * w.inputs * w.taps;
  };
  return static_cast<double>(ceil_div(args.mid_lines, args.lines)) * pass(args.first) +
         static_cast<double>(ceil_div(args.tile_b, args.lines)) * pass(args.second);
}

Launch dense_pack_launch(const DenseWeights &weights, int itemsize) {
  Launch launch;
  launch.kernel = kDensePack;
  launch.choice[kDenseTap] = itemsize;
  const std::int64_t elements = std::int64_t{weights.taps} * weights.inputs * weights.outputs;
  launch.grid[0] = static_cast<unsigned>(ceil_div(elements, kDenseThreads));
  launch.block[0] = kDenseThreads;
  return launch;
}

Launch dense_pair_launch(const DenseShape &shape, const Device &device) {
  const Cost cost = cost_of(shape.math);
  Launch best;
  best.grid[0] = 0;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  // Equal cuts of both axes, the last tile aside.
  for (std::int64_t cut_a = ceil_div(shape.out_a, kDenseRows); cut_a <= shape.out_a; ++cut_a) {
    const int tile_a = whole(ceil_div(shape.out_a, cut_a));
    if (tile_a < std::min<std::int64_t>(shape.out_a, 4)) {
      break;
    }
    if (ceil_div(shape.out_a, tile_a) != cut_a) {
      continue;
    }
    for (std::int64_t cut_b = 1; cut_b <= shape.out_b; ++cut_b) {
      const int tile_b = whole(ceil_div(shape.out_b, cut_b));
      if (ceil_div(shape.out_b, tile_b) != cut_b) {
        continue;
      }
      // Far beyond what shared memory holds, and int.
      if ((tile_b * shape.second.stride + shape.second.reach()) * tile_a > 1 << 14 ||
          tile_a * shape.first.stride + shape.first.reach() > 1 << 12) {
        continue;
      }
      const DensePairArgs args = dense_pair_args(shape, tile_a, tile_b);
      const std::int64_t shared = dense_shared_bytes(args);
      const std::int64_t blocks = shape.batch * args.tiles_a * args.tiles_b;
      if (shared > device.shared_per_block || blocks > kMost) {
        continue;
      }
      const std::int64_t together = residents(shared, device);
      if (together < 1) {
        continue;
      }
      // A lone block leaves the units idle at its barriers: an assumed quarter.
      const std::int64_t waves = ceil_div(blocks, device.sms * together);
      const std::int64_t share = std::min(together, ceil_div(blocks, device.sms));
      const std::int64_t clocks = waves * share * cost.block(args) * (share == 1 ? 5 : 4);
      if (clocks < least) {
        least = clocks;
        best.kernel = kDensePair;
        best.grid = {static_cast<unsigned>(blocks), 1, 1};
        best.block = {kDenseThreads, 1, 1};
        best.shared = static_cast<unsigned>(shared);
        best.choice[kDenseMath] = static_cast<int>(shape.math);
        best.choice[kDenseTileA] = tile_a;
        best.choice[kDenseTileB] = tile_b;
      }
    }
  }
  return best;
}

}  // namespace pyphase::conv::cuda
