// What serves a problem on a device, and whether fusing is expected to pay: pure functions.
//
// Both sides are held at their floors: the time that the arithmetic or the memory needs, whichever
// is more, and a launch. torch's pair is at its floor too, which flatters it: its kernels for
// strips are far from theirs. So a fused kernel that loses here has nothing to gain; one that wins
// is yet to be timed, which `auto` does on the user's own GPU.
#pragma once

#include "kernels.h"

namespace pyphase::conv::cuda {

// One pass of a problem.
struct Pass {
  Plan plan;
  double native = 0, torch = 0;  // predicted seconds, at the floor

  bool covered() const { return !plan.launches.empty(); }
  bool wins() const { return covered() && native < torch; }
};

// The passes of a problem; `kernel` is the family that serves it, "" where none does.
struct Passes {
  const char *kernel = "";
  Pass forward, backward;
};

Passes plan(const Pair &pair, const Device &device, bool tf32);
Passes plan(const Strips &strips, const Device &device);

}  // namespace pyphase::conv::cuda
