// Tasks over the threads of OpenMP, each thread with scratch memory of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "scratch.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace pyphase::conv {

// Threads that tasks can be shared out to. Only the partition of independent results may depend on
// it: a sum over tasks would change its bits.
inline std::int64_t most_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// Calls work(task, memory) for each task, with `bytes` of the thread's memory; `together` tasks in
// a row go to one thread, in their order. Where results are added up over tasks, the partition must
// not depend on the number of threads, so that neither do the sums.
template <class Work>
inline void for_each_task(std::int64_t tasks, std::int64_t together, std::size_t bytes,
                          bool parallel, const Work &work) {
  std::atomic<bool> failed = false;
#pragma omp parallel if (parallel && tasks > together)
  {
    void *memory = nullptr;
    try {
      memory = scratch(bytes);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
#pragma omp barrier
    if (!failed) {
#pragma omp for schedule(dynamic, together)
      for (std::int64_t task = 0; task < tasks; ++task) {
        work(task, memory);
      }
    }
  }
  if (failed) {
    throw std::bad_alloc();
  }
}

}  // namespace pyphase::conv
