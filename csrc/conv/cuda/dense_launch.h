// Launches of the dense kernels as pure functions of problem and device, shared by the launcher and
// the tests.
#pragma once

#include "dense_args.h"
#include "kernels.h"

namespace pyphase::conv::cuda {

// How products are formed: on tensor cores, but for the last.
enum class DenseMath { kHalf, kBfloat16, kTf32, kFma };

// The numbers of Launch::choice.
enum DenseChoice { kDenseMath, kDenseTileA, kDenseTileB, kDenseParts };

constexpr const char *kDensePair = "dense_pair";
constexpr const char *kDenseGradient = "dense_gradient";
constexpr const char *kDenseWeight = "dense_weight";
constexpr const char *kDenseReduce = "dense_reduce";
constexpr const char *kDensePack = "dense_pack";

// A pair as a kernel sees it: along a its first convolution, along b its second one. For the
// gradient of x the image is grad_y, with zeros between its pixels where the pair has strides.
struct DenseShape {
  std::int64_t batch;
  std::int64_t channels[3];  // that the kernel reads, of the middle, that it writes
  std::int64_t size_a, size_b, out_a, out_b;  // of what it reads, of what it writes
  std::int64_t mid_b;                         // lines of the middle that exist
  std::int64_t up_a, up_b;
  Axis first, second;
  bool row_first, channels_last;
  DenseMath math;
};

DenseMath dense_math(Scalar scalar, bool tf32);
int dense_itemsize(DenseMath math);
DenseShape dense_shape(const Pair &pair, DenseMath math);

// Tiles of the least cost by the counts of `Cost` in dense_tiles.cpp; no grid where the shared
// memory holds none.
Launch dense_pair_launch(const DenseShape &shape, const Device &device);
Launch dense_pack_launch(const DenseWeights &weights, int itemsize);

// The arguments that do not depend on addresses.
DenseWeights dense_weights(std::int64_t inputs, std::int64_t outputs, const Axis &axis,
                           int itemsize);
DensePairArgs dense_pair_args(const DenseShape &shape, int tile_a, int tile_b);
std::int64_t dense_weight_bytes(const DenseWeights &weights, int itemsize);
std::int64_t dense_shared_bytes(const DensePairArgs &args);

// Pixels of an image that its tiles read, halos counted for each; multiply-adds of a block, those
// of padded rows and channels included.
std::int64_t dense_read_pixels(const DensePairArgs &args);
double dense_products(const DensePairArgs &args);
double dense_gradient_products(const DenseGradientArgs &args);

// The backward pass. `shape` is that of the pair; `second`: of which convolution the weights are.
DenseShape dense_transpose(const DenseShape &shape);
bool dense_has_gradient(const DenseShape &shape);
Launch dense_gradient_launch(const DenseShape &shape, const Device &device);
Launch dense_weight_launch(const DenseShape &shape, bool second, const Device &device);
Launch dense_reduce_launch(const DenseReduceArgs &args, DenseMath math);
DenseGradientArgs dense_gradient_args(const DenseShape &shape, int tile_a, int tile_b);
DenseWeightArgs dense_weight_args(const DenseShape &shape, bool second, int parts);
DenseReduceArgs dense_reduce_args(const DenseShape &shape, const DenseWeightArgs &args, bool second,
                                  int parts);
std::int64_t dense_gradient_shared_bytes(const DenseGradientArgs &args);

// Where things lie in the workspace of a backward pass, in bytes from its begin.
struct DenseWorkspace {
  std::int64_t back_second, back_first, again;     // packed weights
  std::int64_t mid, grad_mid;                      // images
  std::int64_t partial[2], partial_bias[2], size;  // of the first and the second convolution
};
DenseWorkspace dense_workspace(const DenseShape &shape, const DenseGradientArgs &args,
                               const int (&parts)[2]);

}  // namespace pyphase::conv::cuda
