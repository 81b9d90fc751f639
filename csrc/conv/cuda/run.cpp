#include "run.h"

#include <stdexcept>

#include "device.h"

namespace pyphase::conv::cuda {
namespace {

void prepare(const Pass &pass, const Where &where) {
  if (!pass.covered()) {
    throw std::invalid_argument("no CUDA kernel serves this convolution");
  }
  if (pass.plan.workspace > 0 && !where.workspace) {
    throw std::invalid_argument("workspace is a null address, but " +
                                std::to_string(pass.plan.workspace) + " bytes are needed");
  }
  set_device(where.device);
}

}  // namespace

void forward(const PlannedPair &planned, const PairData &data, void *y, const Where &where) {
  const auto &[pair, passes] = planned;
  const Plan &plan = passes.forward.plan;
  prepare(passes.forward, where);
  check_launch(pair.depthwise ? depthwise_forward({{pair}, false}, plan, {data}, y, where.workspace,
                                                  where.stream)
                              : dense_forward(pair, plan, data, y, where.workspace, where.stream));
}

void backward(const PlannedPair &planned, const PairData &data, const void *grad_y,
              const Gradients &grad, const Where &where) {
  const auto &[pair, passes] = planned;
  const Plan &plan = passes.backward.plan;
  prepare(passes.backward, where);
  check_launch(pair.depthwise
                   ? depthwise_backward({{pair}, false}, plan, {data}, grad_y, {grad},
                                        where.workspace, where.stream)
                   : dense_backward(pair, plan, data, grad_y, grad, where.workspace, where.stream));
}

void forward(const PlannedStrips &planned, const std::vector<PairData> &data, void *y,
             const Where &where) {
  const Pass &pass = planned.passes.forward;
  prepare(pass, where);
  check_launch(
      depthwise_forward(planned.strips, pass.plan, data, y, where.workspace, where.stream));
}

void backward(const PlannedStrips &planned, const std::vector<PairData> &data, const void *grad_y,
              const std::vector<Gradients> &grad, const Where &where) {
  const Pass &pass = planned.passes.backward;
  prepare(pass, where);
  check_launch(depthwise_backward(planned.strips, pass.plan, data, grad_y, grad, where.workspace,
                                  where.stream));
}

}  // namespace pyphase::conv::cuda
