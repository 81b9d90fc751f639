#include <algorithm>
#include <limits>

#include "dense_launch.h"

namespace pyphase::conv::cuda {
namespace {

bool fits(const Pair &p) {
  constexpr std::int64_t kMost = std::numeric_limits<int>::max() / 2;
  const auto below = [&](std::int64_t channels, std::int64_t pixels) {
    return (channels + 64) * pixels < kMost;  // channels in whole passes
  };
  return below(p.channels[0], p.height * p.width) &&
         below(p.channels[1], p.mid_height() * p.mid_width()) &&
         below(p.channels[2], p.out_height * p.out_width) &&
         below(p.channels[1] + 64, (p.channels[0] + 64) * (p.row.kernel + p.column.kernel)) &&
         below(p.channels[1] + 64, (p.channels[2] + 64) * (p.row.kernel + p.column.kernel)) &&
         p.row.reach() < kMost && p.column.reach() < kMost;
}

}  // namespace

// Bytes: each tile's part of x with its halo once (the passes over 64 channels find it in L1 or
// L2), y, and the weights read, packed and read again, each once.
Plan plan_dense_forward(const Pair &pair, const Device &device, bool tf32) {
  if (!pair.dense || pair.scalar == Scalar::f64 || !fits(pair)) {
    return {};
  }
  const DenseMath math = dense_math(pair.scalar, tf32);
  const DenseShape shape = dense_shape(pair, math);
  const Launch launch = dense_pair_launch(shape, device);
  if (launch.grid[0] == 0) {
    return {};
  }
  const DensePairArgs args =
      dense_pair_args(shape, launch.choice[kDenseTileA], launch.choice[kDenseTileB]);
  const int itemsize = dense_itemsize(math);
  Plan plan;
  plan.tensor_cores = math != DenseMath::kFma;
  plan.launches = {dense_pack_launch(args.first, itemsize),
                   dense_pack_launch(args.second, itemsize), launch};
  const std::int64_t packed =
      dense_weight_bytes(args.first, itemsize) + dense_weight_bytes(args.second, itemsize);
  plan.workspace = static_cast<std::size_t>(packed);
  const std::int64_t staged = dense_read_pixels(args) * args.x.channels;
  const std::int64_t written = shape.out_a * shape.out_b * shape.channels[2];
  const std::int64_t weights = pair.channels[1] * (pair.channels[0] * shape.first.kernel +
                                                   pair.channels[2] * shape.second.kernel);
  plan.bytes = static_cast<double>(shape.batch) * static_cast<double>(staged + written) * itemsize +
               static_cast<double>(weights * itemsize + 2 * packed);
  plan.flops = 2.0 * dense_products(args) * launch.grid[0];
  return plan;
}

Plan plan_dense_backward(const Pair &, const Device &, bool) { return {}; }

}  // namespace pyphase::conv::cuda
