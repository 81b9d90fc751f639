// What the depthwise kernels serve and cost, and the launches of those that serve every case.
#include <algorithm>
#include <limits>

#include "depthwise_sizes.h"

namespace pyphase::conv::cuda {
namespace {

constexpr int kMostTile = 4096;  // of a tile's edge, far beyond what shared memory holds

bool is_small(const Axis &axis) {
  return axis.reach() < 4096 && axis.pad < 4096 && axis.stride < 4096 && axis.kernel <= 256;
}

// Whether sizes are those that 32-bit offsets reach, and a grid.
bool are_small(const Strips &strips) {
  if (strips.pairs.empty() || strips.pairs.size() > kMostStrips ||
      !std::all_of(strips.pairs.begin(), strips.pairs.end(),
                   [](const Pair &pair) { return is_small(pair.row) && is_small(pair.column); })) {
    return false;
  }
  const Pair &pair = strips.pairs[0];
  const std::int64_t image = std::max({pair.height * pair.width, pair.out_height * pair.out_width,
                                       pair.mid_height() * pair.mid_width()}) *
                             pair.channels[0];
  return image <= kMost / 2 && pair.channels[0] * all_taps(strips) <= kMost / 2 &&
         pair.scalar != Scalar::f64;
}

bool are_served(const Strips &strips) {
  if (!are_small(strips)) {
    return false;
  }
  const bool alone = strips.pairs.size() == 1 && !strips.residual;
  return std::all_of(strips.pairs.begin(), strips.pairs.end(), [&](const Pair &pair) {
    const bool plain = pair.row.stride == 1 && pair.column.stride == 1 &&
                       pair.activation == Activation::none && pair.out_height == pair.height &&
                       pair.out_width == pair.width;
    return pair.depthwise && (alone || plain);
  });
}

TapAxis taps_of(const Axis &axis) {
  return {to_int(axis.kernel), to_int(axis.stride), to_int(axis.dilation), to_int(axis.pad)};
}

}  // namespace

GeneralArgs general_args(const Strips &strips, const Launch &launch) {
  const Pair &pair = strips.pairs[0];
  const auto &choice = launch.choice;
  GeneralArgs args{};
  args.batch = to_int(pair.batch);
  args.channels = to_int(pair.channels[0]);
  args.height = to_int(pair.height);
  args.width = to_int(pair.width);
  args.out_height = to_int(pair.out_height);
  args.out_width = to_int(pair.out_width);
  args.channels_last = pair.channels_last;
  args.planes = choice[kGeneralPlanes];
  args.channel_blocks = choice[kGeneralChannelBlocks];
  args.tile_height = choice[kTileHeight];
  args.tile_width = choice[kTileWidth];
  args.tiles_down = choice[kTilesDown];
  args.tiles_across = choice[kTilesAcross];
  args.x_height = choice[kXHeight];
  args.x_width = choice[kXWidth];
  args.mid_size = choice[kMidSize];
  args.g_height = choice[kGHeight];
  args.g_width = choice[kGWidth];
  args.residual = strips.residual;
  args.activation = static_cast<int>(pair.activation);
  args.count = to_int(static_cast<std::int64_t>(strips.pairs.size()));
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    const Pair &from = strips.pairs[i];
    args.strips[i].vertical = taps_of(from.column);
    args.strips[i].horizontal = taps_of(from.row);
    args.strips[i].row_first = from.row_first;
    args.taps += to_int(from.row.kernel + from.column.kernel) + 2;
  }
  return args;
}

namespace {

// How far the strips reach before and after an output's place, on one axis.
struct Reach {
  int before = std::numeric_limits<int>::min(), after = before;

  void add(const Axis &axis) {
    before = std::max(before, to_int(axis.pad));
    after = std::max(after, to_int(axis.reach() - 1 - axis.pad));
  }
  // Elements that `outputs` of them need, at a stride.
  int needed(int outputs, const Axis &axis) const {
    return (outputs - 1) * to_int(axis.stride) + before + after + 1;
  }
};

struct Extents {
  int x_height, x_width, mid_size;

  Extents(const Strips &strips, int height, int width) : mid_size(0) {
    Reach down, across;
    for (const Pair &pair : strips.pairs) {
      down.add(pair.column);
      across.add(pair.row);
      Reach own_down, own_across;
      own_down.add(pair.column);
      own_across.add(pair.row);
      mid_size = std::max(mid_size, pair.row_first ? own_down.needed(height, pair.column) * width
                                                   : own_across.needed(width, pair.row) * height);
    }
    x_height = down.needed(height, strips.pairs[0].column);
    x_width = across.needed(width, strips.pairs[0].row);
  }
};

// Half of the pixels, cut where the tile is longer.
void halve(int &height, int &width) {
  int &longer = height >= width ? height : width;
  longer = divide_up(longer, 2);
}

}  // namespace

Launch general_launch(const Strips &strips, const Device &device) {
  const Pair &pair = strips.pairs[0];
  const int channels = to_int(pair.channels[0]), taps = all_taps(strips);
  const int most = std::min(device.shared_per_block, device.shared_per_sm / 2 - 1024);
  const int out_height = to_int(pair.out_height), out_width = to_int(pair.out_width);
  const auto shared = [&](int p, int h, int w) {
    const Extents extents(strips, h, w);
    const std::int64_t pixels = static_cast<std::int64_t>(extents.x_height) * extents.x_width +
                                extents.mid_size + static_cast<std::int64_t>(h) * w;
    return 4 * p * (pixels + taps);
  };
  // Fewer channels have larger tiles, but read parts of a sector of 32 bytes.
  int planes = 0, height = 0, width = 0;
  double least = std::numeric_limits<double>::max();
  for (int p = pair.channels_last ? std::min(channels, kLanePlanes) : 1; p > 0; p /= 2) {
    int h = std::min(out_height, kMostTile), w = std::min(out_width, kMostTile);
    while (shared(p, h, w) > most && h * w > 1) {
      halve(h, w);
    }
    const Extents extents(strips, h, w);
    const double sectors = pair.channels_last ? std::max(1.0, 32 / (p * itemsize(pair))) : 1;
    const double cost = sectors * extents.x_height * extents.x_width / (static_cast<double>(h) * w);
    if (shared(p, h, w) <= most && cost < least) {
      least = cost;
      planes = p;
      height = h;
      width = w;
    }
  }
  Launch launch;
  if (planes == 0) {
    return launch;
  }
  const auto blocks = [&](int p) {
    return pair.batch * divide_up(channels, p) * divide_up(out_height, height) *
           divide_up(out_width, width);
  };
  while (!pair.channels_last && 2 * planes <= channels && planes * height * width < 1024 &&
         shared(2 * planes, height, width) <= most && blocks(2 * planes) >= device.sms) {
    planes *= 2;
  }
  const Extents extents(strips, height, width);
  launch.kernel = kGeneral.data();
  launch.grid = flat(blocks(planes));
  launch.block = {kGeneralThreads, 1, 1};
  launch.shared = static_cast<unsigned>(shared(planes, height, width));
  launch.choice = {planes,
                   divide_up(channels, planes),
                   height,
                   width,
                   divide_up(out_height, height),
                   divide_up(out_width, width),
                   extents.x_height,
                   extents.x_width,
                   extents.mid_size};
  return launch;
}

Plan plan_depthwise_forward(const Strips &strips, const Device &device) {
  Plan plan;
  if (!are_served(strips)) {
    return plan;
  }
  const Pair &pair = strips.pairs[0];
  const double planes = static_cast<double>(pair.batch * pair.channels[0]);
  const double y = static_cast<double>(pair.out_height * pair.out_width);
  std::array<int, kMostStrips> order{};
  const int sizes = march_sizes(strips, order);
  double read = 0, products = 0;
  Launch launch;
  if (sizes != 0) {
    launch = march_launch(strips, sizes, device);
    if (launch.grid[0] == 0) {
      return plan;
    }
    const auto &choice = launch.choice;
    const int pad = most_taps(sizes) / 2;
    const double rows = static_cast<double>(read_in_all(pair.height, choice[kRows], pad));
    read = rows * static_cast<double>(read_in_all(pair.width, 4 * choice[kGroups], pad));
    products = 2.0 * sum_of_taps(sizes) * rows * 4 * choice[kGroups] * choice[kTiles];
  } else {
    launch = general_launch(strips, device);
    if (launch.shared == 0 || launch.grid[0] == 0) {
      return plan;
    }
    const auto &choice = launch.choice;
    const double tiles = static_cast<double>(choice[kTilesDown]) * choice[kTilesAcross];
    read = std::min(static_cast<double>(choice[kXHeight]), static_cast<double>(pair.height)) *
           std::min(static_cast<double>(choice[kXWidth]), static_cast<double>(pair.width)) * tiles;
    for (const Pair &one : strips.pairs) {
      const auto &first = one.row_first ? one.row : one.column;
      const auto &second = one.row_first ? one.column : one.row;
      products +=
          tiles * (static_cast<double>(choice[kMidSize]) * static_cast<double>(first.kernel) +
                   static_cast<double>(choice[kTileHeight]) * choice[kTileWidth] *
                       static_cast<double>(second.kernel));
    }
  }
  plan.bytes = planes * (read + y) * itemsize(pair) +
               static_cast<double>(launch.grid[0]) * all_taps(strips) * itemsize(pair);
  plan.flops = 2 * planes * products;
  plan.launches.push_back(launch);
  return plan;
}

namespace {

// Everything a tile of x needs of all strips, and the largest intermediate.
struct GradientExtents {
  GradientTile tile;
  int mid_size = 0;

  GradientExtents(const GeneralArgs &args, int height, int width)
      : tile(args.strips[0], {0, height}, {0, width}) {
    for (int s = 0; s < args.count; ++s) {
      const GradientTile own(args.strips[s], {0, height}, {0, width});
      tile.cover(own);
      mid_size = std::max(mid_size, own.mid.count * (args.strips[s].row_first ? height : width));
    }
  }
  std::int64_t x() const { return std::int64_t{tile.x_rows.count} * tile.x_columns.count; }
  std::int64_t g() const { return std::int64_t{tile.g_rows.count} * tile.g_columns.count; }
};

}  // namespace

Launch gradient_launch(const Strips &strips, const Device &device) {
  const Pair &pair = strips.pairs[0];
  const GeneralArgs args = general_args(strips, {});
  const int channels = args.channels, taps = args.taps;
  const int most = std::min(device.shared_per_block, device.shared_per_sm / 2 - 1024);
  const int down = to_int(pair.column.stride), across = to_int(pair.row.stride);
  // A tile begins and ends where a stride does, and tiles hold all of x and all of y.
  const int all_height = round_to(std::max(args.height, args.out_height * down), down);
  const int all_width = round_to(std::max(args.width, args.out_width * across), across);
  const int most_height = std::min(all_height, round_to(kMostTile, down));
  const int most_width = std::min(all_width, round_to(kMostTile, across));
  int height = most_height, width = most_width;
  int planes = pair.channels_last ? kLanePlanes : 1;
  const auto shared = [&](int p, int h, int w) {
    const GradientExtents extents(args, h, w);
    const std::int64_t out = args.count > 1 ? std::int64_t{h} * w : 0;
    return 4 * p * (extents.x() + extents.g() + 2 * std::int64_t{extents.mid_size} + out + taps);
  };
  while (shared(planes, height, width) > most && (height > down || width > across)) {
    const bool rows = width <= across || (height > down && height >= width);
    int &longer = rows ? height : width;
    longer = round_to(divide_up(longer, 2), rows ? down : across);
    if (planes > 8 && height * width <= 64) {  // rather fewer channels than many more halos
      planes /= 2;
      height = most_height;
      width = most_width;
    }
  }
  while (shared(planes, height, width) > most && planes > 1) {
    planes /= 2;
  }
  Launch launch;
  if (shared(planes, height, width) > most) {
    return launch;
  }
  const int tiles_down = divide_up(all_height, height), tiles_across = divide_up(all_width, width);
  while (!pair.channels_last && 2 * planes <= channels && planes * height * width < 1024 &&
         shared(2 * planes, height, width) <= most &&
         pair.batch * divide_up(channels, 2 * planes) * tiles_down * tiles_across >= device.sms) {
    planes *= 2;
  }
  const GradientExtents extents(args, height, width);
  launch.kernel = kGradient.data();
  launch.grid = flat(pair.batch * divide_up(channels, planes) * tiles_down * tiles_across);
  launch.block = {kGeneralThreads, 1, 1};
  launch.shared = static_cast<unsigned>(shared(planes, height, width));
  launch.choice = {planes,
                   divide_up(channels, planes),
                   height,
                   width,
                   tiles_down,
                   tiles_across,
                   extents.tile.x_rows.count,
                   extents.tile.x_columns.count,
                   extents.mid_size,
                   extents.tile.g_rows.count,
                   extents.tile.g_columns.count};
  return launch;
}

namespace {

// The second launch of a backward pass.
Launch sum_launch(int channels, int taps) {
  Launch sum;
  sum.kernel = kSum.data();
  sum.block = {kGeneralThreads, 1, 1};
  sum.grid = flat(divide_up(channels * taps, kGeneralThreads));
  return sum;
}

Plan plan_march_backward(const Strips &strips, const Launch &launch) {
  const Pair &pair = strips.pairs[0];
  std::array<int, kMostStrips> order{};
  const MarchArgs args = march_args(strips, launch, order);
  const int sizes = launch.choice[kSizes], most = most_taps(sizes);
  const double planes = static_cast<double>(pair.batch * pair.channels[0]);
  const int halo = args.tiles > 1 ? 4 * backward_halo(most, args.activation) : 0;
  const double columns = static_cast<double>(read_in_all(args.width, 4 * args.own, halo));
  const double rows = static_cast<double>(read_in_all(args.height, args.rows, most / 2));
  const double image = static_cast<double>(args.height) * args.width;
  const double partial = static_cast<double>(march_slices(args)) * args.channels * args.taps * 4;
  Plan plan;
  plan.workspace = static_cast<std::size_t>(partial);
  plan.bytes = planes * (columns * (args.height + rows) + image) * itemsize(pair) + 2 * partial +
               1.0 * march_slices(args) * args.channels * all_taps(strips) * itemsize(pair);
  plan.flops = 2 * planes * 5 * sum_of_taps(sizes) * args.height * 4 * args.groups * args.tiles;
  plan.launches = {launch, sum_launch(args.channels, args.taps)};
  return plan;
}

}  // namespace

Plan plan_depthwise_backward(const Strips &strips, const Device &device) {
  Plan plan;
  if (!are_served(strips)) {
    return plan;
  }
  if (const int sizes = march_backward_sizes(strips); sizes != 0) {
    const Launch march = march_backward_launch(strips, sizes, device);
    if (march.shared != 0 && march.grid[0] != 0) {
      return plan_march_backward(strips, march);
    }
  }
  const Launch launch = gradient_launch(strips, device);
  if (launch.shared == 0 || launch.grid[0] == 0) {
    return plan;
  }
  const GeneralArgs args = general_args(strips, launch);
  const Pair &pair = strips.pairs[0];
  const double tiles = static_cast<double>(args.tiles_down) * args.tiles_across;
  const double planes = static_cast<double>(pair.batch * pair.channels[0]);
  const auto held = [](int tile, int image) { return static_cast<double>(std::min(tile, image)); };
  const double x = tiles * held(args.x_height, args.height) * held(args.x_width, args.width);
  const double g =
      tiles * held(args.g_height, args.out_height) * held(args.g_width, args.out_width);
  const double slices = static_cast<double>(pair.batch) * tiles;
  const double partial = slices * static_cast<double>(pair.channels[0]) * args.taps * 4;
  plan.workspace = static_cast<std::size_t>(partial);
  plan.bytes = planes * (x + g + static_cast<double>(pair.height * pair.width)) * itemsize(pair) +
               2 * partial;
  // h and grad_a on the tile with its halo, grad_x and the weights' sums on the tile.
  double products = 0;
  for (int s = 0; s < args.count; ++s) {
    const int taps = args.strips[s].horizontal.kernel + args.strips[s].vertical.kernel;
    products += static_cast<double>(args.mid_size) * taps +
                static_cast<double>(args.tile_height) * args.tile_width *
                    (taps + args.strips[s].first().kernel);
  }
  plan.flops = 2 * planes * tiles * products;
  plan.launches.push_back(launch);
  plan.launches.push_back(sum_launch(args.channels, args.taps));
  return plan;
}

}  // namespace pyphase::conv::cuda
