// Depthwise passes: arguments from problem, plan and addresses.
#include "by_scalar.h"
#include "depthwise_launch.h"
#include "depthwise_run.h"

namespace pyphase::conv::cuda {

extern template struct DepthwiseKernels<Scalar::f32>;
extern template struct DepthwiseKernels<Scalar::f16>;
extern template struct DepthwiseKernels<Scalar::bf16>;

namespace {

StripWeights weights_of(const Pair &pair, const PairData &data) {
  const void *const horizontal = pair.row_first ? data.w1 : data.w2;
  const void *const vertical = pair.row_first ? data.w2 : data.w1;
  return {horizontal, vertical, data.b1, data.b2};
}

GeneralArgs with_weights(const Strips &strips, const Launch &launch,
                         const std::vector<PairData> &data) {
  GeneralArgs args = general_args(strips, launch);
  args.x = data[0].x;
  for (std::size_t i = 0; i < data.size(); ++i) {
    args.strips[i].weights = weights_of(strips.pairs[i], data[i]);
  }
  return args;
}

MarchArgs march_with_weights(const Strips &strips, const Launch &launch,
                             const std::vector<PairData> &data,
                             std::array<int, kMostStrips> &order) {
  MarchArgs args = march_args(strips, launch, order);
  args.x = data[0].x;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto from = static_cast<std::size_t>(order[i]);
    args.strips[i].weights = weights_of(strips.pairs[from], data[from]);
  }
  return args;
}

// What the sums of a march's blocks are for, in the order of MarchArgs::partial.
SumArgs march_sums(const Strips &strips, const MarchArgs &args,
                   const std::array<int, kMostStrips> &order, const std::vector<Gradients> &grads) {
  SumArgs sum{};
  sum.partial = args.partial;
  sum.slices = march_slices(args);
  sum.channels = args.channels;
  sum.taps = args.taps;
  int tap = 0;
  const auto add = [&](void *to, int length) {
    sum.parts[sum.count++] = {to, tap, length};
    tap += length;
  };
  for (std::size_t i = 0; i < grads.size(); ++i) {
    const auto from = static_cast<std::size_t>(order[i]);
    const bool row_first = strips.pairs[from].row_first;
    add(row_first ? grads[from].w1 : grads[from].w2, args.strips[i].horizontal.taps);
    add(row_first ? grads[from].w2 : grads[from].w1, args.strips[i].vertical.taps);
    add(grads[from].b1, 1);
  }
  for (const Gradients &grad : grads) {
    sum.parts[sum.count++] = {grad.b2, tap, 1};
  }
  return sum;
}

}  // namespace

Status depthwise_forward(const Strips &strips, const Plan &plan, const std::vector<PairData> &data,
                         void *y, void *, Stream stream) {
  const Launch &launch = plan.launches[0];
  const Pair &pair = strips.pairs[0];
  if (launch.kernel == kMarch) {
    std::array<int, kMostStrips> order{};
    MarchArgs args = march_with_weights(strips, launch, data, order);
    args.y = y;
    return with_kernels<DepthwiseKernels>(pair.scalar, [&](auto kernels) {
      return kernels.march(args, pair.channels_last, launch, stream);
    });
  }
  GeneralArgs args = with_weights(strips, launch, data);
  args.y = y;
  return with_kernels<DepthwiseKernels>(
      pair.scalar, [&](auto kernels) { return kernels.general(args, launch, stream); });
}

Status depthwise_backward(const Strips &strips, const Plan &plan, const std::vector<PairData> &data,
                          const void *grad_y, const std::vector<Gradients> &grads, void *workspace,
                          Stream stream) {
  const Launch &launch = plan.launches[0];
  const Pair &pair = strips.pairs[0];
  const auto add_up = [&](const SumArgs &sum) {
    return with_kernels<DepthwiseKernels>(
        pair.scalar, [&](auto kernels) { return kernels.sum(sum, plan.launches[1], stream); });
  };
  if (launch.kernel == kMarchBackward) {
    std::array<int, kMostStrips> order{};
    MarchArgs args = march_with_weights(strips, launch, data, order);
    args.grad_y = grad_y;
    args.y = grads[0].x;
    args.partial = static_cast<float *>(workspace);
    const Status first = with_kernels<DepthwiseKernels>(pair.scalar, [&](auto kernels) {
      return kernels.march_backward(args, pair.channels_last, launch, stream);
    });
    return first.error != 0 ? first : add_up(march_sums(strips, args, order, grads));
  }
  GeneralArgs args = with_weights(strips, launch, data);
  args.grad_y = grad_y;
  args.y = grads[0].x;
  args.partial = static_cast<float *>(workspace);
  const Status first = with_kernels<DepthwiseKernels>(
      pair.scalar, [&](auto kernels) { return kernels.gradient(args, launch, stream); });
  if (first.error != 0) {
    return first;
  }
  SumArgs sum{};
  sum.partial = args.partial;
  sum.slices = args.batch * args.tiles_down * args.tiles_across;
  sum.channels = args.channels;
  sum.taps = args.taps;
  int tap = 0;
  for (std::size_t i = 0; i < grads.size(); ++i) {
    const auto add = [&](void *to, int length) {
      sum.parts[sum.count++] = {to, tap, length};
      tap += length;
    };
    add(grads[i].w1, args.strips[i].first().kernel);
    add(grads[i].w2, args.strips[i].second().kernel);
    add(grads[i].b1, 1);
    add(grads[i].b2, 1);
  }
  return add_up(sum);
}

}  // namespace pyphase::conv::cuda
