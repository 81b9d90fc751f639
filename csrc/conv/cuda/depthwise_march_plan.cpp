// Launch choices of the marches.
#include "depthwise_sizes.h"

namespace pyphase::conv::cuda {
namespace {

constexpr double kMostRereads = 1.14;  // of the compulsory bytes, unless half of the GPU lies idle

// The smallest size that holds an axis with its taps around the middle: 2 * half + 1.
std::int64_t half_size(const Axis &axis) { return std::max(axis.pad, axis.reach() - 1 - axis.pad); }

std::int64_t march_size(const Pair &pair) {
  return 2 * std::max(half_size(pair.row), half_size(pair.column)) + 1;
}

// What a march's blocks read and write, over the least that they could.
double rereads(const Pair &pair, int groups, int rows, int pad) {
  const double read = static_cast<double>(read_in_all(pair.height, rows, pad)) *
                      static_cast<double>(read_in_all(pair.width, 4 * groups, pad));
  return (1 + read / static_cast<double>(pair.height * pair.width)) / 2;
}

// Rows of a block: the columns are cut until the multiprocessors have work. `again(rows)`: the
// bytes that are moved then, over the least.
template <class Again>
int cut_rows(int height, int most, std::int64_t blocks, const Device &device, Again again) {
  int rows = height;
  for (int chunks = 2; chunks <= height; ++chunks) {
    const std::int64_t now = blocks * divide_up(height, rows);
    const int next = divide_up(height, chunks);
    const bool cheap = again(next) <= kMostRereads;
    if (next < std::max(most, 8) || 2 * now >= (cheap ? 4 : 1) * device.sms) {
      break;
    }
    rows = next;
  }
  return rows;
}

// Fewer channels of a block while `large(planes)`; blocks of NCHW have the same number of them.
template <class Large>
int cut_planes(int planes, int channels, bool last, Large large) {
  while (!last && planes > 1 && large(planes)) {
    planes = divide_up(planes, 2);
  }
  return last ? planes : divide_up(channels, divide_up(channels, planes));
}

// As many neighbours as rows of the image in memory are made of: 4, 2 or 1; 4 or 1 in NHWC.
int neighbours(const Pair &pair) {
  const std::int64_t row = pair.channels_last ? pair.channels[0] : pair.width;
  return row % 4 == 0 ? 4 : row % 2 == 0 && !pair.channels_last ? 2 : 1;
}

// A march as its plan has found it.
struct March {
  int sizes, planes, groups, own, tiles, rows, images, shared;

  Launch launch(const Pair &pair, std::string_view kernel) const {
    const int channels = to_int(pair.channels[0]), chunks = divide_up(to_int(pair.height), rows);
    const int slices = divide_up(to_int(pair.batch), images) * chunks;
    Launch found;
    found.kernel = kernel.data();
    found.grid = flat(std::int64_t{divide_up(channels, planes)} * tiles * slices);
    found.block = {static_cast<unsigned>(planes * groups), 1, 1};
    found.shared = static_cast<unsigned>(shared);
    found.choice = {planes,
                    groups,
                    tiles,
                    rows,
                    chunks,
                    divide_up(channels, planes),
                    march_pitch(most_taps(sizes), groups),
                    neighbours(pair),
                    pair.activation != Activation::none,
                    images,
                    sizes,
                    own};
    return found;
  }
};

}  // namespace

int march_sizes(const Strips &strips, std::array<int, kMostStrips> &order) {
  const int count = to_int(static_cast<std::int64_t>(strips.pairs.size()));
  if (count > 3) {
    return 0;
  }
  for (int i = 0; i < count; ++i) {
    const Pair &pair = strips.pairs[static_cast<std::size_t>(i)];
    order[static_cast<std::size_t>(i)] = i;
    // An activation between does not let the convolutions be exchanged.
    if (pair.row.stride != 1 || pair.column.stride != 1 || pair.out_height != pair.height ||
        pair.out_width != pair.width || (pair.activation != Activation::none && !pair.row_first)) {
      return 0;
    }
  }
  const auto size = [&](int i) {
    return march_size(strips.pairs[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
  };
  std::stable_sort(order.begin(), order.begin() + count, [&](int a, int b) {
    return march_size(strips.pairs[static_cast<std::size_t>(a)]) >
           march_size(strips.pairs[static_cast<std::size_t>(b)]);
  });
  if (count > 1) {
    return size(0) <= 21 && size(1) <= 11 && (count < 3 || size(2) <= 7) ? -21 : 0;
  }
  for (const int compiled : {3, 5, 7, 11, 19, 21}) {
    if (size(0) <= compiled) {
      return compiled;
    }
  }
  return 0;
}

Launch march_launch(const Strips &strips, int sizes, const Device &device) {
  const Pair &pair = strips.pairs[0];
  const bool last = pair.channels_last;
  const int channels = to_int(pair.channels[0]), height = to_int(pair.height);
  const int width = to_int(pair.width), most = most_taps(sizes), pad = most / 2;
  const int weights = march_weights(count_taps(sizes), sizes < 0 ? 3 : 1);
  // Whole rows up to 512 columns in NCHW; 64 in NHWC, where 16 channels share the block.
  const int widest = last ? 4 * kMarchThreads / kLanePlanes : 512;
  const int groups = divide_up(divide_up(width, divide_up(width, widest)), 4);
  const int tiles = divide_up(width, 4 * groups);
  const auto shared = [&](int planes) {
    return 4 * (planes * weights + 2 * march_row(last, most, planes, groups));
  };
  // Half blocks where the registers hold only one whole one: three of them fit at K = 11.
  const int threads = most <= 7 ? kMarchThreads : kMarchThreads / 2;
  int planes = last ? kLanePlanes : std::min(threads / groups, channels);
  const auto blocks = [&](int p) { return pair.batch * divide_up(channels, p) * tiles; };
  planes = cut_planes(planes, channels, last, [&](int p) {
    return shared(p) > 48 * 1024 || (blocks(p) < 2 * device.sms && p * groups > 64);
  });
  const int rows = cut_rows(height, most, blocks(planes), device,
                            [&](int r) { return rereads(pair, groups, r, pad); });
  const int chunks = divide_up(height, rows);
  // Small images one after the other, while there are blocks enough: the weights are read once.
  int images = 1;
  while (images * height * width < 32 * most && 2 * images <= pair.batch &&
         blocks(planes) * chunks >= std::int64_t{4} * images * device.sms) {
    images *= 2;
  }
  const March march{sizes, planes, groups, groups, tiles, rows, images, shared(planes)};
  return march.launch(pair, kMarch);
}

int march_backward_sizes(const Strips &strips) {
  std::array<int, kMostStrips> order{};
  const int sizes = march_sizes(strips, order);
  return sizes == 19 ? 21 : sizes;
}

namespace {

// Groups of threads across a row, those of them that are a tile's own, and tiles.
struct Across {
  int groups, own, tiles;

  // Whole rows where `most` groups hold them; none where tiles would be halos alone.
  Across(int width, int halo, int most) : groups(0), own(divide_up(width, 4)), tiles(1) {
    const int all = own;
    if (all <= most) {
      groups = all;
      return;
    }
    if (most >= halo + divide_up(all, 2)) {
      tiles = 2;
    } else if (most > 2 * halo) {
      tiles = divide_up(all, most - 2 * halo);
    } else {
      return;
    }
    own = divide_up(all, tiles);
    tiles = divide_up(all, own);
    groups = own + halo * (tiles > 2 ? 2 : 1);
  }
};

}  // namespace

Launch march_backward_launch(const Strips &strips, int sizes, const Device &device) {
  const Pair &pair = strips.pairs[0];
  const bool last = pair.channels_last;
  const int channels = to_int(pair.channels[0]), height = to_int(pair.height);
  const int width = to_int(pair.width), most = most_taps(sizes), pad = most / 2;
  const int count = sizes < 0 ? 3 : 1, size = to_int(static_cast<std::int64_t>(itemsize(pair)));
  const int lanes = backward_lanes(size);
  const int halo = backward_halo(most, static_cast<int>(pair.activation));
  const auto shared = [&](int planes, int groups) {
    const int rows = planes * march_weights(count_taps(sizes), count) +
                     (2 + 2 * count) * march_row(last, most, planes, groups);
    const int ring = backward_ring(most, count, size) ? most * planes * groups * 4 * size : 0;
    return std::max(4 * rows + ring, 4 * (planes * march_weights(count_taps(sizes), count) +
                                          backward_scratch(last, planes, groups)));
  };
  int widest = backward_threads(most, count, size) / (last ? lanes : 1);
  while (widest > 1 && shared(last ? lanes : 1, widest) > device.shared_per_block) {
    --widest;
  }
  const Across across(width, halo, widest);
  const int groups = across.groups, tiles = across.tiles;
  if (groups == 0 || shared(last ? lanes : 1, groups) > device.shared_per_block) {
    return {};
  }
  // In NCHW two blocks of a multiprocessor, if it goes, by registers and by shared memory.
  const int room = std::min(device.shared_per_block, device.shared_per_sm / 2 - 1024);
  const int threads = backward_threads(most, count, size) / 2;
  int planes = last ? lanes : std::clamp(threads / groups, 1, channels);
  const auto blocks = [&](int p) { return pair.batch * divide_up(channels, p) * tiles; };
  planes = cut_planes(planes, channels, last, [&](int p) {
    return shared(p, groups) > room || (blocks(p) < 2 * device.sms && p * groups > 64);
  });
  // g is read again at the cuts.
  const double columns =
      tiles > 1 ? static_cast<double>(read_in_all(width, 4 * across.own, 4 * halo)) / width : 1;
  const int rows = cut_rows(height, most, blocks(planes), device, [&](int r) {
    const double again = static_cast<double>(read_in_all(height, r, pad)) / height;
    return (columns * (1 + again) + 1) / 3;
  });
  const int chunks = divide_up(height, rows);
  // Small images one after the other, while there are threads enough: the weights are read and
  // their sums written once, which is to be little beside the images.
  const double weights = all_taps(strips) * (itemsize(pair) + 4);
  int images = 1;
  while (images * 3.0 * rows * width * itemsize(pair) < 25 * weights * tiles &&
         2 * images <= pair.batch &&
         blocks(planes) * chunks * planes * groups >= std::int64_t{256} * images * device.sms) {
    images *= 2;
  }
  return March{sizes, planes, groups, across.own, tiles, rows, images, shared(planes, groups)}
      .launch(pair, kMarchBackward);
}

MarchArgs march_args(const Strips &strips, const Launch &launch,
                     std::array<int, kMostStrips> &order) {
  const Pair &pair = strips.pairs[0];
  MarchArgs args{};
  args.batch = to_int(pair.batch);
  args.channels = to_int(pair.channels[0]);
  args.height = to_int(pair.height);
  args.width = to_int(pair.width);
  const auto &choice = launch.choice;
  const int sizes = choice[kSizes];
  march_sizes(strips, order);
  args.planes = choice[kPlanes];
  args.groups = choice[kGroups];
  args.own = choice[kOwn];
  args.tiles = choice[kTiles];
  args.rows = choice[kRows];
  args.chunks = choice[kChunks];
  args.channel_blocks = choice[kChannelBlocks];
  args.images = choice[kImages];
  args.pitch = choice[kPitch];
  args.together = choice[kNeighbours];
  args.residual = strips.residual;
  args.activation = static_cast<int>(pair.activation);
  for (std::size_t i = 0; i < 3; ++i) {
    MarchStripArgs &strip = args.strips[i];
    strip.horizontal.step = strip.vertical.step = 1;
    if (i < strips.pairs.size()) {
      const Pair &from = strips.pairs[static_cast<std::size_t>(order[i])];
      const int compiled = sizes > 0 ? sizes : i == 0 ? 21 : i == 1 ? 11 : 7;
      const auto embed = [&](const Axis &axis) {
        return Embedded{to_int(axis.kernel), compiled / 2 - to_int(axis.pad),
                        to_int(axis.dilation)};
      };
      strip.horizontal = embed(from.row);
      strip.vertical = embed(from.column);
      strip.column_first = !from.row_first;
      args.taps += strip.horizontal.taps + strip.vertical.taps + 1;
    }
  }
  ++args.taps;
  return args;
}

}  // namespace pyphase::conv::cuda
