#include "device.h"

namespace pyphase::conv::cuda {
namespace {

// float32: two operations a clock of each of an SM's float32 units (64 of the A100, else 128).
// mma.sync: A100 312 TF / (108 SMs * 1.41 GHz); RTX 4090 165 TF / (128 * 2.52 GHz), RTX 5090 210 TF
// / (170 * 2.41 GHz), GeForce summing in float32 at half rate. H100 has 4096 by wgmma (989 TF /
// (132 * 1.83 GHz)) and B200 8192 by tcgen05; what mma.sync reaches there is not published: 2560
// and 2048 are assumptions.
constexpr ClockRates kRates[] = {
    {80, 128, 2048, 2048}, {86, 256, 512, 512},    {89, 256, 512, 512},
    {90, 256, 2560, 4096}, {100, 256, 2048, 8192}, {120, 256, 512, 512},
};

}  // namespace

ClockRates clock_rates(int capability) {
  ClockRates found = kRates[0];
  for (const ClockRates &rates : kRates) {
    if (rates.capability <= capability) {
      found = rates;
    }
  }
  found.capability = capability;
  return found;
}

}  // namespace pyphase::conv::cuda
