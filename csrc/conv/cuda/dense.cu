// Launches of the dense pairs.
#include "dense_forward.cuh"
#include "dense_launch.h"

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

// Bits are moved: 16-bit types are one.
Status run_pack(const Launch &launched, const DensePackArgs &args, Stream stream) {
  return launched.choice[kDenseTap] == 2 ? run(dense_pack<__half>, launched, args, stream)
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

Status dense_backward(const Pair &, const Plan &, const PairData &, const void *, const Gradients &,
                      void *, Stream) {
  return {};
}

}  // namespace pyphase::conv::cuda
