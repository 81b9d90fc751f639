#include "plan.h"

#include <algorithm>
#include <utility>

namespace pyphase::conv::cuda {
namespace {

constexpr double kLaunch = 2e-6;  // seconds from one kernel of a stream to the next: an assumption
constexpr double kL2Speed = 2;    // of the L2 cache over the memory's: an assumption, a low one

double itemsize(Scalar scalar) { return scalar == Scalar::f64 ? 8 : scalar == Scalar::f32 ? 4 : 2; }

// The tensor cores take TF32 at half the rate of 16 bits.
double tensor_rate(double peak, Scalar scalar) { return scalar == Scalar::f32 ? peak / 2 : peak; }

// torch's pair: kernel after kernel, each at its own floor.
class Torch {
 public:
  Torch(const Pair &pair, const Device &device, bool tf32) : device_(device), pair_(pair) {
    const bool tensor_cores = !pair.depthwise && (tf32 || pair.scalar != Scalar::f32);
    peak_ = tensor_cores ? tensor_rate(device.tensor_best, pair.scalar) : device.fma;
    const double batch = static_cast<double>(pair.batch);
    const auto image = [&](std::int64_t channels, std::int64_t height, std::int64_t width) {
      return batch * static_cast<double>(channels * height) * static_cast<double>(width);
    };
    const double x = image(pair.channels[0], pair.height, pair.width);
    const double mid = image(pair.channels[1], pair.mid_height(), pair.mid_width());
    const double y = image(pair.channels[2], pair.out_height, pair.out_width);
    const double bytes = itemsize(pair.scalar);
    x_ = x * bytes;
    y_ = y * bytes;
    mid_ = mid * bytes;
    if (mid_ <= static_cast<double>(device.l2) / 2) {  // what one kernel wrote, the next one finds
      mid_ /= kL2Speed;
    }
    const Axis &first = pair.row_first ? pair.row : pair.column;
    const Axis &second = pair.row_first ? pair.column : pair.row;
    flops1_ = 2 * mid * inputs(0) * static_cast<double>(first.kernel);
    flops2_ = 2 * y * inputs(1) * static_cast<double>(second.kernel);
  }

  double forward() const {
    return kernel(x_ + mid_, flops1_) + activation(2) + kernel(mid_ + y_, flops2_);
  }

  // The intermediate was kept by the forward pass. The sums for biases are not counted.
  double backward() const {
    const double second = kernel(y_ + mid_, flops2_) + kernel(mid_ + y_, flops2_);
    const double first = kernel(mid_ + x_, flops1_) + kernel(x_ + mid_, flops1_);
    return second + activation(3) + first;
  }

  double sum() const { return kernel(3 * y_, 0); }  // of two images

 private:
  double inputs(int half) const {  // channels that an output channel sums over
    return pair_.depthwise ? 1 : static_cast<double>(pair_.channels[half]);
  }
  double kernel(double bytes, double flops) const {
    return std::max(bytes / device_.bandwidth, flops / peak_) + kLaunch;
  }
  double activation(double passes) const {
    return pair_.activation == Activation::none ? 0 : kernel(passes * mid_, 0);
  }

  const Device &device_;
  const Pair &pair_;
  double peak_, x_, mid_, y_, flops1_, flops2_;
};

// Seconds that a plan's arithmetic and memory allow, and its launches take.
double predicted(const Plan &plan, const Device &device, double peak) {
  const double launches = kLaunch * static_cast<double>(plan.launches.size());
  return std::max(plan.bytes / device.bandwidth, plan.flops / peak) + launches;
}

Pass make_pass(Plan plan, const Device &device, Scalar scalar, double torch) {
  const double peak = plan.tensor_cores ? tensor_rate(device.tensor, scalar) : device.fma;
  const double native = predicted(plan, device, peak);
  return {std::move(plan), native, torch};
}

bool is_served(Scalar scalar) { return scalar != Scalar::f64; }

const char *name_if(const char *name, const Passes &passes) {
  return passes.forward.covered() || passes.backward.covered() ? name : "";
}

}  // namespace

Passes plan(const Pair &pair, const Device &device, bool tf32) {
  if (!is_served(pair.scalar) || pair.batch == 0 || !(pair.depthwise || pair.dense)) {
    return {};
  }
  const Torch torch(pair, device, tf32);
  const Strips one{{pair}, false};
  Plan forward =
      pair.depthwise ? plan_depthwise_forward(one, device) : plan_dense_forward(pair, device, tf32);
  Plan backward = pair.depthwise ? plan_depthwise_backward(one, device)
                                 : plan_dense_backward(pair, device, tf32);
  Passes passes{"", make_pass(std::move(forward), device, pair.scalar, torch.forward()),
                make_pass(std::move(backward), device, pair.scalar, torch.backward())};
  passes.kernel = name_if(pair.depthwise ? "depthwise" : "dense", passes);
  return passes;
}

Passes plan(const Strips &strips, const Device &device) {
  const Pair &one = strips.pairs.front();
  const bool depthwise = std::all_of(strips.pairs.begin(), strips.pairs.end(),
                                     [](const Pair &pair) { return pair.depthwise; });
  if (!is_served(one.scalar) || one.batch == 0 || !depthwise) {
    return {};
  }
  double forward = 0, backward = 0;
  for (const Pair &pair : strips.pairs) {
    const Torch torch(pair, device, false);
    forward += torch.forward();
    backward += torch.backward();
  }
  const double sums = static_cast<double>(strips.pairs.size()) - (strips.residual ? 0 : 1);
  const double sum = sums * Torch(one, device, false).sum();  // of outputs, or of gradients of x
  Passes passes{
      "", make_pass(plan_depthwise_forward(strips, device), device, one.scalar, forward + sum),
      make_pass(plan_depthwise_backward(strips, device), device, one.scalar, backward + sum)};
  passes.kernel = name_if("strips", passes);
  return passes;
}

}  // namespace pyphase::conv::cuda
