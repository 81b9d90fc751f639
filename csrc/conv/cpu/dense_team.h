// Threads that share one block of memory and have one of their own each.
#pragma once

#include <new>

#include "../scratch.h"
#include "simd.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace pyphase::conv::PYPHASE_ISA::dense {

inline long align_floats(long floats) { return (floats + 15) / 16 * 16; }  // to 64 bytes

class Team {
 public:
  // What a thread sees; `memory` is null where there was none to be had, and
  // its tasks are skipped.
  struct Member {
    float *memory;

    // Shares out body(i), i < n, one by one; all are done when it returns.
    template <class Body>
    void each(long n, Body body) const {
#pragma omp for schedule(dynamic, 1)
      for (long i = 0; i < n; ++i) {
        if (memory != nullptr) {
          body(i);
        }
      }
    }
  };

  Team(long shared, long own)
      : shared_(allocate(align_floats(shared) + own)), size_(align_floats(shared)), own_(own) {}

  float *shared() const { return shared_; }

  // Runs body(member) on every thread. Throws std::bad_alloc when one had no
  // memory.
  template <class Body>
  void run(bool alone, Body body) const {
    bool failed = false;
#pragma omp parallel if (!alone)
    {
      float *memory = shared_ + size_;  // the calling thread's
#ifdef _OPENMP
      if (omp_get_thread_num() != 0) {
        try {
          memory = allocate(own_);
        } catch (const std::bad_alloc &) {
          memory = nullptr;
#pragma omp atomic write
          failed = true;
        }
      }
#endif
      body(Member{memory});
    }
    if (failed) {
      throw std::bad_alloc();
    }
  }

 private:
  static float *allocate(long floats) {
    return static_cast<float *>(scratch(static_cast<std::size_t>(floats + 16) * sizeof(float)));
  }

  float *shared_;
  long size_, own_;
};

}  // namespace pyphase::conv::PYPHASE_ISA::dense
