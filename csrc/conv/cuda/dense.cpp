// Dense passes: arguments from problem, plan and addresses.
#include "by_scalar.h"
#include "dense_launch.h"
#include "dense_run.h"

namespace pyphase::conv::cuda {

extern template struct DenseKernels<Scalar::f32>;
extern template struct DenseKernels<Scalar::f16>;
extern template struct DenseKernels<Scalar::bf16>;

namespace {

// `flip`: from the weights of a convolution to those of its transpose.
DensePackArgs pack_args(const DenseWeights &to, const void *from, void *packed, std::int64_t inputs,
                        bool flip) {
  return {from,        packed,    to.taps,    static_cast<int>(inputs),
          to.channels, to.inputs, to.outputs, flip};
}

}  // namespace

Status dense_forward(const Pair &pair, const Plan &plan, const PairData &data, void *y,
                     void *workspace, Stream stream) {
  const Launch &fused = plan.launches[2];
  const auto math = static_cast<DenseMath>(fused.choice[kDenseMath]);
  DensePairArgs args = dense_pair_args(dense_shape(pair, math), fused.choice[kDenseTileA],
                                       fused.choice[kDenseTileB]);
  void *packed1 = workspace;
  void *packed2 =
      static_cast<char *>(workspace) + dense_weight_bytes(args.first, dense_itemsize(math));
  args.x.data = data.x;
  args.y = y;
  args.first.packed = packed1;
  args.first.bias = data.b1;
  args.second.packed = packed2;
  args.second.bias = data.b2;
  args.activation = static_cast<int>(pair.activation);
  const DensePackArgs packs[2] = {
      pack_args(args.first, data.w1, packed1, pair.channels[0], false),
      pack_args(args.second, data.w2, packed2, pair.channels[1], false)};
  return with_kernels<DenseKernels>(pair.scalar, [&](auto kernels) {
    Status status;
    for (std::size_t i = 0; i < 2 && status.error == 0; ++i) {
      status = kernels.pack(packs[i], plan.launches[i], stream);
    }
    return status.error == 0 ? kernels.pair(args, fused, stream) : status;
  });
}

Status dense_backward(const Pair &pair, const Plan &plan, const PairData &data, const void *grad_y,
                      const Gradients &grad, void *workspace, Stream stream) {
  const Launch &fused = plan.launches[3];
  const auto math = static_cast<DenseMath>(fused.choice[kDenseMath]);
  const DenseShape shape = dense_shape(pair, math);
  DenseGradientArgs all =
      dense_gradient_args(shape, fused.choice[kDenseTileA], fused.choice[kDenseTileB]);
  const int parts[2] = {plan.launches[4].choice[kDenseParts], plan.launches[6].choice[kDenseParts]};
  const DenseWorkspace at = dense_workspace(shape, all, parts);
  const auto place = [&](std::int64_t offset) { return static_cast<char *>(workspace) + offset; };
  const bool wanted[2] = {grad.w1 || grad.b1, grad.w2 || grad.b2};
  all.pair.x.data = grad_y;
  all.pair.y = grad.x;
  all.pair.first.packed = place(at.back_second);
  all.pair.second.packed = place(at.back_first);
  all.pair.activation = static_cast<int>(pair.activation);
  all.x.data = data.x;
  all.weights.packed = place(at.again);
  all.weights.bias = data.b1;
  all.mid = wanted[1] ? place(at.mid) : nullptr;
  all.grad_mid = wanted[0] ? place(at.grad_mid) : nullptr;
  const DensePackArgs packs[3] = {
      pack_args(all.pair.first, data.w2, place(at.back_second), pair.channels[2], true),
      pack_args(all.pair.second, data.w1, place(at.back_first), pair.channels[1], true),
      pack_args(all.weights, data.w1, place(at.again), pair.channels[0], false)};
  return with_kernels<DenseKernels>(pair.scalar, [&](auto kernels) {
    Status status;
    for (std::size_t i = 0; i < 3 && status.error == 0; ++i) {
      status = kernels.pack(packs[i], plan.launches[i], stream);
    }
    if (status.error == 0 && (grad.x || all.mid || all.grad_mid)) {
      status = kernels.gradient(all, fused, stream);
    }
    for (std::size_t i = 0; i < 2 && status.error == 0; ++i) {
      if (!wanted[i]) {
        continue;
      }
      const bool second = i == 1;
      DenseWeightArgs args = dense_weight_args(shape, second, parts[i]);
      args.p.data = second ? grad_y : place(at.grad_mid);
      args.q.data = second ? place(at.mid) : data.x;
      args.partial = reinterpret_cast<float *>(place(at.partial[i]));
      args.bias = reinterpret_cast<float *>(place(at.partial_bias[i]));
      DenseReduceArgs reduce = dense_reduce_args(shape, args, second, parts[i]);
      reduce.partial = args.partial;
      reduce.partial_bias = args.bias;
      reduce.to = second ? grad.w2 : grad.w1;
      reduce.bias = second ? grad.b2 : grad.b1;
      status = kernels.weight(args, plan.launches[4 + 2 * i], stream);
      if (status.error == 0) {
        status = kernels.reduce(reduce, plan.launches[5 + 2 * i], stream);
      }
    }
    return status;
  });
}

}  // namespace pyphase::conv::cuda
