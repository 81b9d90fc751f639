// C entry points of the depthwise passes for the tests: a problem as numbers, addresses as they
// are.
#include <stdexcept>

#include "../../../csrc/conv/cuda/depthwise_launch.h"
#include "entry.h"

namespace {

using namespace pyphase::conv;

// A problem: batch, channels, height, width, layout, dtype, activation, residual, count; then of
// each pair row_first, and of its columns and its rows kernel, stride, dilation, begin, end.
constexpr const char *kDtypes[] = {"float32", "bfloat16", "float16", "float64"};
constexpr const char *kActivations[] = {"none", "relu", "gelu", "silu"};

Strips read_problem(const std::int64_t *at) {
  PairRequest request{};
  request.input = {at[0], at[1], at[2], at[3]};
  request.channels_last = at[4] != 0;
  request.dtype = kDtypes[at[5]];
  request.activation = kActivations[at[6]];
  request.groups = {at[1], at[1]};
  Strips strips{{}, at[7] != 0};
  const std::int64_t count = at[8];
  at += 9;
  for (std::int64_t i = 0; i < count; ++i, at += 11) {
    const Shape column{request.input[1], 1, at[1], 1}, row{request.input[1], 1, 1, at[6]};
    request.weight1 = at[0] ? row : column;
    request.weight2 = at[0] ? column : row;
    request.stride = {at[2], at[7]};
    request.dilation = {at[3], at[8]};
    request.padding = {at[4], at[5], at[9], at[10]};
    strips.pairs.push_back(make_pair(request));
  }
  return strips;
}

cuda::Device read_device(const std::int64_t *at) {
  cuda::Device device{};
  device.sms = static_cast<int>(at[0]);
  device.shared_per_sm = static_cast<int>(at[1]);
  device.shared_per_block = static_cast<int>(at[2]);
  return device;
}

cuda::Plan make_plan(const Strips &strips, const std::int64_t *device, bool backward) {
  return backward ? cuda::plan_depthwise_backward(strips, read_device(device))
                  : cuda::plan_depthwise_forward(strips, read_device(device));
}

}  // namespace

extern "C" {

// numbers: workspace, bytes, flops, then grid, block, shared and choices of the first launch.
const char *depthwise_plan(const std::int64_t *problem, const std::int64_t *device, int backward,
                           double *numbers) {
  return cuda_host::guard([&] {
    const cuda::Plan plan = make_plan(read_problem(problem), device, backward != 0);
    if (plan.launches.empty()) {
      throw std::runtime_error("not covered");
    }
    *numbers++ = static_cast<double>(plan.workspace);
    *numbers++ = plan.bytes;
    *numbers++ = plan.flops;
    const cuda::Launch &launch = plan.launches[0];
    *numbers++ = launch.kernel == cuda::kMarch || launch.kernel == cuda::kMarchBackward;
    *numbers++ = launch.grid[0];
    *numbers++ = launch.block[0];
    *numbers++ = launch.shared;
    for (const int value : launch.choice) {
      *numbers++ = value;
    }
  });
}

// addresses: x, y or its gradient, the workspace, the gradient of x; then of each pair w1, w2, b1,
// b2, and in a backward pass their gradients.
const char *depthwise_run(const std::int64_t *problem, const std::int64_t *device, int backward,
                          void **addresses) {
  return cuda_host::guard([&] {
    const Strips strips = read_problem(problem);
    const cuda::Plan plan = make_plan(strips, device, backward != 0);
    std::vector<PairData> data;
    std::vector<Gradients> grads;
    void **at = addresses + 4;
    for (std::size_t i = 0; i < strips.pairs.size(); ++i, at += 4) {
      data.push_back({addresses[0], at[0], at[1], at[2], at[3]});
    }
    for (std::size_t i = 0; backward && i < strips.pairs.size(); ++i, at += 4) {
      grads.push_back({i == 0 ? addresses[3] : nullptr, at[0], at[1], at[2], at[3]});
    }
    const cuda::Status status =
        backward ? cuda::depthwise_backward(strips, plan, data, addresses[1], grads, addresses[2],
                                            nullptr)
                 : cuda::depthwise_forward(strips, plan, data, addresses[1], addresses[2], nullptr);
    if (status.error != 0) {
      throw std::runtime_error(std::string(status.kernel) + ": " + std::to_string(status.error));
    }
  });
}
}
