// A factorized convolution that has been checked, ready to be called with addresses.
#pragma once

#include "kernels.h"

namespace pyphase::conv {

// Which kernel serves a pair; none where only torch's own convolutions do.
enum class Route { none, depthwise, dense };

Route route(const Pair &pair);

// Whether the fused kernel is expected to be the faster one: a pure function of the problem.
bool wins(const Pair &pair, bool backward);

void forward(const Pair &pair, const PairData &data, void *y);
void backward(const Pair &pair, const PairData &data, const void *grad_y, const Gradients &grad);

// Pairs whose orders differ have no kernel.
Route route(const Strips &strips);
bool wins(const Strips &strips);
void forward(const Strips &strips, const std::vector<PairData> &data, void *y);
// `grad` has an entry for each strip; the gradient of x goes to the first one's.
void backward(const Strips &strips, const std::vector<PairData> &data, const void *grad_y,
              std::vector<Gradients> grad);

}  // namespace pyphase::conv
