#include <algorithm>
#include <limits>

#include "dense_launch.h"

namespace pyphase::conv::cuda {
namespace {

// Far beyond what tiles hold.
bool axis_fits(const Axis &axis) { return axis.reach() <= 4096 && axis.stride <= 4096; }

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
         axis_fits(p.row) && axis_fits(p.column) &&
         p.batch * p.mid_height() * p.mid_width() < kMost &&
         p.batch * p.out_height * p.out_width < kMost;
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

// Bytes: x and grad_y with their halos and the gradient of x once, the two images of the workspace
// written once, what the weights' gradients read of both and of x and grad_y once (their taps find
// it in L2), partial sums written and read, weights read, packed and read again.
Plan plan_dense_backward(const Pair &pair, const Device &device, bool tf32) {
  if (!pair.dense || pair.scalar == Scalar::f64 || !fits(pair)) {
    return {};
  }
  const DenseMath math = dense_math(pair.scalar, tf32);
  const DenseShape shape = dense_shape(pair, math);
  if (!dense_has_gradient(shape)) {
    return {};
  }
  const Launch gradient = dense_gradient_launch(shape, device);
  const Launch sums[2] = {dense_weight_launch(shape, false, device),
                          dense_weight_launch(shape, true, device)};
  if (gradient.grid[0] == 0 || sums[0].shared > static_cast<unsigned>(device.shared_per_block)) {
    return {};
  }
  const DenseGradientArgs all =
      dense_gradient_args(shape, gradient.choice[kDenseTileA], gradient.choice[kDenseTileB]);
  const int parts[2] = {sums[0].choice[kDenseParts], sums[1].choice[kDenseParts]};
  const DenseWorkspace at = dense_workspace(shape, all, parts);
  const int itemsize = dense_itemsize(math);
  Plan plan;
  plan.tensor_cores = math != DenseMath::kFma;
  plan.launches = {dense_pack_launch(all.pair.first, itemsize),
                   dense_pack_launch(all.pair.second, itemsize),
                   dense_pack_launch(all.weights, itemsize), gradient};
  plan.workspace = static_cast<std::size_t>(at.size);
  const auto batch = static_cast<double>(shape.batch);
  const auto image = [&](std::int64_t a, std::int64_t b, std::int64_t channels) {
    return batch * static_cast<double>(a * b * channels) * itemsize;
  };
  const double x = image(shape.size_a, shape.size_b, shape.channels[0]);
  const double y = image(shape.out_a, shape.out_b, shape.channels[2]);
  const double mid = image(shape.out_a, shape.size_b, all.pair.second.inputs);
  const double staged =
      batch * static_cast<double>(dense_read_pixels(all.pair) * shape.channels[2]) * itemsize;
  const double halo = static_cast<double>(all.pair.mid_lines + all.halo_lines) / all.pair.tile_b;
  plan.bytes = staged + x * halo + x + 2 * mid + (x + y + 2 * mid) +
               2 * static_cast<double>(at.mid - at.back_second);
  plan.flops = 2 * gradient.grid[0] * dense_gradient_products(all);
  for (int i = 0; i < 2; ++i) {
    const DenseWeightArgs args = dense_weight_args(shape, i == 1, parts[i]);
    plan.launches.push_back(sums[i]);
    plan.launches.push_back(
        dense_reduce_launch(dense_reduce_args(shape, args, i == 1, parts[i]), math));
    const double tile = double{kDenseTile} * kDenseTile;
    plan.flops += 2.0 * args.taps * args.p_tiles * args.q_tiles * tile * args.pixels;
    plan.bytes += 2.0 * 4 * tile * sums[i].grid[0];
  }
  return plan;
}

}  // namespace pyphase::conv::cuda
