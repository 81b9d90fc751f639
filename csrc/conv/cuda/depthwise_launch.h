// Launches of the depthwise kernels as pure integer functions of problem and device, shared by the
// launcher and the tests.
#pragma once

#include <string_view>

#include "depthwise_args.h"
#include "kernels.h"

namespace pyphase::conv::cuda {

// The numbers of Launch::choice.
enum MarchChoice {
  kPlanes,
  kGroups,
  kTiles,
  kRows,
  kChunks,
  kChannelBlocks,
  kPitch,
  kNeighbours,
  kActive,
  kImages,
  kSizes,  // the largest kernel; of a sum of three, negative
  kOwn
};
enum GeneralChoice {
  kGeneralPlanes,
  kGeneralChannelBlocks,
  kTileHeight,
  kTileWidth,
  kTilesDown,
  kTilesAcross,
  kXHeight,
  kXWidth,
  kMidSize,
  kGHeight,
  kGWidth
};

inline constexpr std::string_view kMarch = "depthwise_march";
inline constexpr std::string_view kMarchBackward = "depthwise_march_backward";
inline constexpr std::string_view kGeneral = "depthwise_general";
inline constexpr std::string_view kGradient = "depthwise_gradient";
inline constexpr std::string_view kSum = "depthwise_sum";

// The largest size where depthwise_march serves the problem, negative for the sum of 21, 11 and 7;
// 0 where it does not. `order` receives the strips from the largest to the smallest.
int march_sizes(const Strips &strips, std::array<int, kMostStrips> &order);

Launch march_launch(const Strips &strips, int sizes, const Device &device);

// The same of depthwise_march_backward; no shared memory where that holds no tile.
int march_backward_sizes(const Strips &strips);
Launch march_backward_launch(const Strips &strips, int sizes, const Device &device);

// Largest tiles that the shared memory holds; no shared memory where it holds none.
Launch general_launch(const Strips &strips, const Device &device);
Launch gradient_launch(const Strips &strips, const Device &device);

// The arguments that do not depend on addresses; `order` as of march_sizes.
GeneralArgs general_args(const Strips &strips, const Launch &launch);
MarchArgs march_args(const Strips &strips, const Launch &launch,
                     std::array<int, kMostStrips> &order);

// The blocks whose sums of weights are added up.
inline int march_slices(const MarchArgs &args) {
  return (args.batch + args.images - 1) / args.images * args.tiles * args.chunks;
}

}  // namespace pyphase::conv::cuda
