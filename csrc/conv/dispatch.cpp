#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace pyphase::conv {

#ifdef PYPHASE_HAS_baseline
namespace baseline {
extern const Kernels kKernels;
}
#endif
#ifdef PYPHASE_HAS_wide
namespace wide {  // the vectors of AVX-512, on any machine
extern const Kernels kKernels;
}
#endif
#ifdef PYPHASE_HAS_avx2
namespace avx2 {
extern const Kernels kKernels;
}
#endif
#ifdef PYPHASE_HAS_avx512
namespace avx512 {
extern const Kernels kKernels;
}
#endif

namespace {

// From the best to those that only PYPHASE_ISA asks for.
std::vector<const Kernels *> usable() {
  std::vector<const Kernels *> found;
#ifdef PYPHASE_HAS_avx512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    found.push_back(&avx512::kKernels);
  }
#endif
#ifdef PYPHASE_HAS_avx2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    found.push_back(&avx2::kKernels);
  }
#endif
#ifdef PYPHASE_HAS_baseline
  found.push_back(&baseline::kKernels);
#endif
#ifdef PYPHASE_HAS_wide
  found.push_back(&wide::kKernels);
#endif
  return found;
}

const Kernels &choose() {
  const std::vector<const Kernels *> found = usable();
  if (found.empty()) {  // a build for the sanitizers, which has one set alone
    throw std::invalid_argument("none of the instruction sets in this build runs here");
  }
  const char *wanted = std::getenv("PYPHASE_ISA");
  if (!wanted || !*wanted) {
    return *found.front();
  }
  std::string names;
  for (const Kernels *kernels : found) {
    if (std::string(wanted) == kernels->name) {
      return *kernels;
    }
    names += names.empty() ? "" : ", ";
    names += kernels->name;
  }
  throw std::invalid_argument("PYPHASE_ISA (='" + std::string(wanted) +
                              "') must be one of those that run here: " + names);
}

}  // namespace

const Kernels &kernels() {
  static const Kernels &chosen = choose();
  return chosen;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels *kernels : usable()) {
    names.emplace_back(kernels->name);
  }
  return names;
}

}  // namespace pyphase::conv
