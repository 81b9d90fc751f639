// The part of the CUDA runtime that launches need. Limits are the device's own: a launch that a GPU
// would refuse is refused here with the same error.
#include <dlfcn.h>

#include <map>
#include <stdexcept>

#include "machine.h"

namespace cuda_host {

Elsewhere elsewhere = nullptr;

namespace {

cudaError_t last_error = cudaSuccess;
std::map<const void *, int> shared_allowed;  // by kernel; 48 KiB for those not in it
constexpr int kShared = 48 << 10;

cudaError_t judge(const Launched &what) {
  const dim3 grid = what.grid, size = what.block;
  const bool empty = !grid.x || !grid.y || !grid.z || !size.x || !size.y || !size.z;
  if (empty || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || size.x > 1024 ||
      size.y > 1024 || size.z > 64 || size.x * size.y * size.z > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  const auto found = shared_allowed.find(what.kernel);
  const int allowed = found == shared_allowed.end() ? kShared : found->second;
  return what.shared > static_cast<std::size_t>(allowed) ? cudaErrorInvalidValue : cudaSuccess;
}

// A kernel's mangled name: the same for the host's compiler and for nvcc.
const char *mangled_name(const void *kernel) {
  Dl_info info{};
  if (!dladdr(kernel, &info) || !info.dli_sname || info.dli_saddr != kernel) {
    throw std::runtime_error(
        "a kernel without an exported name: static, or in an unnamed namespace");
  }
  return info.dli_sname;
}

}  // namespace

void launch(const Launched &what, const std::function<void()> &thread) {
  const cudaError_t error = judge(what);
  if (error != cudaSuccess) {
    last_error = error;
  } else if (elsewhere) {
    if (elsewhere(mangled_name(what.kernel), &what)) last_error = cudaErrorLaunchFailure;
  } else {
    run_grid(what.grid, what.block, what.shared, thread);
  }
}

}  // namespace cuda_host

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(cuda_host::last_error, cudaSuccess); }

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return cudaErrorInvalidValue;  // nothing else is imitated
  }
  if (value < 0 || value > cuda_host::config.shared_limit) return cudaErrorInvalidValue;
  cuda_host::shared_allowed[kernel] = value;
  return cudaSuccess;
}

}  // extern "C"
