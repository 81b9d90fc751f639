// A planned problem on its device, ready to be called with addresses.
#pragma once

#include "plan.h"

namespace pyphase::conv::cuda {

// Where a call goes: the device of its tensors, memory of at least the plan's workspace, and a
// stream of that device.
struct Where {
  int device;
  void *workspace;
  Stream stream;
};

struct PlannedPair {
  Pair pair;
  Passes passes;
};

struct PlannedStrips {
  Strips strips;
  Passes passes;
};

// Each throws std::invalid_argument where no kernel serves the pass or the workspace is missing,
// std::runtime_error where a launch fails. The work is queued, not done, when they return.
void forward(const PlannedPair &planned, const PairData &data, void *y, const Where &where);
void backward(const PlannedPair &planned, const PairData &data, const void *grad_y,
              const Gradients &grad, const Where &where);
void forward(const PlannedStrips &planned, const std::vector<PairData> &data, void *y,
             const Where &where);
// The gradient of x goes to the first entry's.
void backward(const PlannedStrips &planned, const std::vector<PairData> &data, const void *grad_y,
              const std::vector<Gradients> &grad, const Where &where);

}  // namespace pyphase::conv::cuda
