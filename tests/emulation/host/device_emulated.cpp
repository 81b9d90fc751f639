// The machine of fibers as a device of the binding: an A100 whose launches run on the host.
#include <stdexcept>

#include "../../../csrc/conv/cuda/device.h"

namespace pyphase::conv::cuda {

int device_count() { return 1; }

Device query_device(int index) {
  if (index != 0) {
    throw std::runtime_error("properties of CUDA device " + std::to_string(index) + ": none");
  }
  const ClockRates rates = clock_rates(80);
  constexpr double kPeak = 108 * 1.41e9;
  return {.capability = 80,
          .sms = 108,
          .threads_per_sm = 2048,
          .registers_per_sm = 65536,
          .shared_per_sm = 164 << 10,
          .shared_per_block = 163 << 10,
          .l2 = 40 << 20,
          .bandwidth = 2.04e12,
          .fma = kPeak * rates.fma,
          .tensor = kPeak * rates.tensor,
          .tensor_best = kPeak * rates.tensor_best};
}

void set_device(int index) { query_device(index); }

void check_launch(const Status &status) {
  if (status.error != 0) {
    throw std::runtime_error(std::string("CUDA kernel ") + status.kernel + ": error " +
                             std::to_string(status.error));
  }
}

}  // namespace pyphase::conv::cuda
