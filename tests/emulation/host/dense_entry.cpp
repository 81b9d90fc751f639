// C entry points of the dense passes for the tests: a problem as numbers, addresses as they are.
#include <stdexcept>
#include <string>

#include "../../../csrc/conv/cuda/dense_launch.h"
#include "entry.h"

namespace {

using namespace pyphase::conv;

constexpr const char *kDtypes[] = {"float32", "bfloat16", "float16", "float64"};
constexpr const char *kActivations[] = {"none", "relu", "gelu", "silu"};

// A problem: shapes of input, weight1 and weight2; strides, dilations (vertical, horizontal);
// padding (top, bottom, left, right); activation, dtype, channels_last, whether TF32.
Pair read_pair(const std::int64_t *at) {
  PairRequest request{};
  const auto take = [&](auto &to) {
    for (auto &value : to) {
      value = *at++;
    }
  };
  take(request.input);
  take(request.weight1);
  take(request.weight2);
  take(request.stride);
  take(request.dilation);
  take(request.padding);
  request.groups = {1, 1};
  request.activation = kActivations[at[0]];
  request.dtype = kDtypes[at[1]];
  request.channels_last = at[2] != 0;
  return make_pair(request);
}

cuda::Device read_device(const std::int64_t *at) {
  cuda::Device device{};
  device.capability = static_cast<int>(at[0]);
  device.sms = static_cast<int>(at[1]);
  device.threads_per_sm = static_cast<int>(at[2]);
  device.registers_per_sm = 65536;
  device.shared_per_sm = static_cast<int>(at[3]);
  device.shared_per_block = static_cast<int>(at[4]);
  return device;
}

cuda::Plan make_plan(const Pair &pair, const std::int64_t *problem, const std::int64_t *device,
                     bool backward) {
  const bool tf32 = problem[23] != 0;
  return backward ? cuda::plan_dense_backward(pair, read_device(device), tf32)
                  : cuda::plan_dense_forward(pair, read_device(device), tf32);
}

}  // namespace

extern "C" {

// numbers: workspace, bytes, flops, number of launches (0: not covered); then of each launch grid,
// shared bytes and 16 choices. At most `most` numbers are written.
const char *dense_plan(const std::int64_t *problem, const std::int64_t *device, int backward,
                       double *numbers, int most) {
  return cuda_host::guard([&] {
    const cuda::Plan plan = make_plan(read_pair(problem), problem, device, backward != 0);
    int count = 0;
    const auto put = [&](double value) {
      if (count < most) {
        numbers[count++] = value;
      }
    };
    put(static_cast<double>(plan.workspace));
    put(plan.bytes);
    put(plan.flops);
    put(static_cast<double>(plan.launches.size()));
    for (const cuda::Launch &launch : plan.launches) {
      put(launch.grid[0]);
      put(launch.shared);
      for (const int choice : launch.choice) {
        put(choice);
      }
    }
  });
}

// addresses: x, w1, w2, b1, b2, y (or its gradient), workspace; backward: gradients of x, w1, w2,
// b1, b2.
const char *dense_run(const std::int64_t *problem, const std::int64_t *device, int backward,
                      void **at) {
  return cuda_host::guard([&] {
    const Pair pair = read_pair(problem);
    const cuda::Plan plan = make_plan(pair, problem, device, backward != 0);
    if (plan.launches.empty()) {
      throw std::runtime_error("not covered");
    }
    const PairData data{at[0], at[1], at[2], at[3], at[4]};
    const cuda::Status status =
        backward ? cuda::dense_backward(pair, plan, data, at[5],
                                        {at[7], at[8], at[9], at[10], at[11]}, at[6], nullptr)
                 : cuda::dense_forward(pair, plan, data, at[5], at[6], nullptr);
    if (status.error != 0) {
      throw std::runtime_error(std::string(status.kernel) + ": " + std::to_string(status.error));
    }
  });
}
}
