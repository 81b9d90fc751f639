#include <cuda_runtime.h>

#include <stdexcept>

#include "device.h"

namespace pyphase::conv::cuda {
namespace {

void require(cudaError_t error, const std::string &what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(what + ": " + cudaGetErrorName(error) + ", " +
                             cudaGetErrorString(error));
  }
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  require(cudaDeviceGetAttribute(&value, which, index),
          "properties of CUDA device " + std::to_string(index));
  return value;
}

}  // namespace

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Device query_device(int index) {
  const auto get = [index](cudaDeviceAttr which) { return attribute(which, index); };
  const int capability = 10 * get(cudaDevAttrComputeCapabilityMajor) +  //
                         get(cudaDevAttrComputeCapabilityMinor);
  const ClockRates rates = clock_rates(capability);
  const double clock = 1e3 * get(cudaDevAttrClockRate);  // in kHz
  const double memory_clock = 1e3 * get(cudaDevAttrMemoryClockRate);
  const double bus = get(cudaDevAttrGlobalMemoryBusWidth) / 8.0;  // in bits; two words a clock
  const int sms = get(cudaDevAttrMultiProcessorCount);
  const double peak = clock * sms;
  return {.capability = capability,
          .sms = sms,
          .threads_per_sm = get(cudaDevAttrMaxThreadsPerMultiProcessor),
          .registers_per_sm = get(cudaDevAttrMaxRegistersPerMultiprocessor),
          .shared_per_sm = get(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          .shared_per_block = get(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          .l2 = get(cudaDevAttrL2CacheSize),
          .bandwidth = 2 * memory_clock * bus,
          .fma = peak * rates.fma,
          .tensor = peak * rates.tensor,
          .tensor_best = peak * rates.tensor_best};
}

void set_device(int index) {
  require(cudaSetDevice(index), "CUDA device " + std::to_string(index));
}

void check_launch(const Status &status) {
  require(static_cast<cudaError_t>(status.error), std::string("CUDA kernel ") + status.kernel);
}

}  // namespace pyphase::conv::cuda
