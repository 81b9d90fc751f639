// What the binding needs of the CUDA runtime. The tests put a machine without a GPU in its place.
#pragma once

#include <string>

#include "kernels.h"

namespace pyphase::conv::cuda {

int device_count();  // 0 where there is no driver

// Throws std::runtime_error where there is no such device.
Device query_device(int index);

// Make a device this thread's own for the launches that follow. The caller's framework has done the
// same in its runtime and puts things back there; this library's runtime has a notion of its own.
void set_device(int index);

// Throw std::runtime_error with the kernel's name unless the launch was good.
void check_launch(const Status &status);

// Peaks of a chip, from its clocks: float32, mma.sync on bfloat16, and the fastest instructions.
// Operations a clock and SM, by compute capability, as NVIDIA's tables of throughput and its data
// sheets have them; those of a capability that is not listed are the nearest lower one's.
struct ClockRates {
  int capability;
  int fma, tensor, tensor_best;
};
ClockRates clock_rates(int capability);

}  // namespace pyphase::conv::cuda
