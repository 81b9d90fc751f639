// Launches of the dense pairs.
#include "dense_backward.cuh"
#include "dense_launch.h"
#include "dense_weight.cuh"

namespace pyphase::conv::cuda {
namespace {

dim3 dimensions(const Grid &grid) { return {grid[0], grid[1], grid[2]}; }

template <class Kernel, class Args>
Status run(Kernel *kernel, const Launch &launched, const Args &args, Stream stream) {
  constexpr unsigned kGranted = 48 * 1024;  // bytes of shared memory that need no permission
  if (launched.shared > kGranted) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(launched.shared));
    if (error != cudaSuccess) {
      return {static_cast<int>(error), launched.kernel};
    }
  }
  launch(kernel, dimensions(launched.grid), dimensions(launched.block), launched.shared,
         static_cast<cudaStream_t>(stream), args);
  return {static_cast<int>(cudaGetLastError()), launched.kernel};
}

Status run_pair(const Launch &launched, const DensePairArgs &args, Stream stream) {
  switch (static_cast<DenseMath>(launched.choice[kDenseMath])) {
#define PYPHASE_RUN(name, type, fma) \
  case DenseMath::name:              \
    return run(dense_pair<type, fma>, launched, args, stream);
    PYPHASE_DENSE_MATHS(PYPHASE_RUN)
#undef PYPHASE_RUN
  }
  return {};
}

Status run_gradient(const Launch &launched, const DenseGradientArgs &args, Stream stream) {
  switch (static_cast<DenseMath>(launched.choice[kDenseMath])) {
#define PYPHASE_RUN(name, type, fma) \
  case DenseMath::name:              \
    return run(dense_gradient<type, fma>, launched, args, stream);
    PYPHASE_DENSE_MATHS(PYPHASE_RUN)
#undef PYPHASE_RUN
  }
  return {};
}

Status run_weight(const Launch &launched, const DenseWeightArgs &args, Stream stream) {
  switch (static_cast<DenseMath>(launched.choice[kDenseMath])) {
#define PYPHASE_RUN(name, type, fma) \
  case DenseMath::name:              \
    return run(dense_weight<type, fma>, launched, args, stream);
    PYPHASE_DENSE_MATHS(PYPHASE_RUN)
#undef PYPHASE_RUN
  }
  return {};
}

Status run_reduce(const Launch &launched, const DenseReduceArgs &args, Stream stream) {
  switch (static_cast<DenseMath>(launched.choice[kDenseMath])) {
    case DenseMath::kHalf:
      return run(dense_reduce<__half>, launched, args, stream);
    case DenseMath::kBfloat16:
      return run(dense_reduce<__nv_bfloat16>, launched, args, stream);
    default:
      return run(dense_reduce<float>, launched, args, stream);
  }
}

// Bits are moved: 16-bit types are one.
Status run_pack(const Launch &launched, const DensePackArgs &args, Stream stream) {
  return launched.choice[kDenseParts] == 2 ? run(dense_pack<__half>, launched, args, stream)
                                           : run(dense_pack<float>, launched, args, stream);
}

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
  Status status = run_pack(
      plan.launches[0], pack_args(args.first, data.w1, packed1, pair.channels[0], false), stream);
  if (status.error == 0) {
    status = run_pack(plan.launches[1],
                      pack_args(args.second, data.w2, packed2, pair.channels[1], false), stream);
  }
  return status.error == 0 ? run_pair(fused, args, stream) : status;
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
  Status status;
  for (std::size_t i = 0; i < 3 && status.error == 0; ++i) {
    status = run_pack(plan.launches[i], packs[i], stream);
  }
  if (status.error == 0 && (grad.x || all.mid || all.grad_mid)) {
    status = run_gradient(fused, all, stream);
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
    status = run_weight(plan.launches[4 + 2 * i], args, stream);
    if (status.error == 0) {
      status = run_reduce(plan.launches[5 + 2 * i], reduce, stream);
    }
  }
  return status;
}

}  // namespace pyphase::conv::cuda
