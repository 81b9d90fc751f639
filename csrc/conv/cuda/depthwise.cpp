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

}  // namespace

Status depthwise_forward(const Strips &strips, const Plan &plan, const std::vector<PairData> &data,
                         void *y, void *, Stream stream) {
  const Launch &launch = plan.launches[0];
  const Pair &pair = strips.pairs[0];
  if (launch.kernel == kMarch) {
    MarchArgs args = march_args(strips, launch);
    std::array<int, kMostStrips> order{};
    march_sizes(strips, order);
    args.x = data[0].x;
    args.y = y;
    for (std::size_t i = 0; i < data.size(); ++i) {
      const auto from = static_cast<std::size_t>(order[i]);
      args.strips[i].weights = weights_of(strips.pairs[from], data[from]);
    }
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
  const Scalar scalar = strips.pairs[0].scalar;
  GeneralArgs args = with_weights(strips, launch, data);
  args.grad_y = grad_y;
  args.y = grads[0].x;
  args.partial = static_cast<float *>(workspace);
  const Status first = with_kernels<DepthwiseKernels>(
      scalar, [&](auto kernels) { return kernels.gradient(args, launch, stream); });
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
  return with_kernels<DepthwiseKernels>(
      scalar, [&](auto kernels) { return kernels.sum(sum, plan.launches[1], stream); });
}

}  // namespace pyphase::conv::cuda
