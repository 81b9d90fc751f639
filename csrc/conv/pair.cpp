#include "pair.h"

#include <stdexcept>
#include <utility>

#include "cpu/dense_choice.h"
#include "dispatch.h"

namespace pyphase::conv {
namespace {

View view(const Pair &pair, std::int64_t channels, std::int64_t height, std::int64_t width) {
  View strides = pair.channels_last ? View{channels * height * width, 1, width * channels, channels}
                                    : View{channels * height * width, height * width, width, 1};
  if (!pair.row_first) {  // the kernels run their first convolution along rows
    std::swap(strides.row, strides.column);
  }
  return strides;
}

// Sizes that both passes of a depthwise pair share, rows and columns in the kernels' sense.
template <class Problem>
Problem depthwise(const Pair &pair) {
  Problem out{};
  out.batch = pair.batch;
  out.channels = pair.channels[0];
  out.height = pair.row_first ? pair.height : pair.width;
  out.width = pair.row_first ? pair.width : pair.height;
  out.out_height = pair.row_first ? pair.out_height : pair.out_width;
  out.out_width = pair.row_first ? pair.out_width : pair.out_height;
  out.in = view(pair, pair.channels[0], pair.height, pair.width);
  out.out = view(pair, pair.channels[0], pair.out_height, pair.out_width);
  out.activation = pair.activation;
  return out;
}

const Axis &first(const Pair &pair) { return pair.row_first ? pair.row : pair.column; }
const Axis &second(const Pair &pair) { return pair.row_first ? pair.column : pair.row; }

Strip strip(const Pair &pair, const PairData &data) {
  return {first(pair), second(pair), data.w1, data.w2, data.b1, data.b2};
}

void depthwise_backward(const Pair &pair, const PairData &data, const void *grad_y,
                        const Gradients &grad, const void *add) {
  DepthwiseBackward problem = depthwise<DepthwiseBackward>(pair);
  problem.first = first(pair);
  problem.second = second(pair);
  problem.weight1 = data.w1;
  problem.weight2 = data.w2;
  problem.bias1 = data.b1;
  problem.grad = grad;
  problem.add = add;
  kernels().depthwise_backward(problem, pair.scalar, data.x, grad_y);
}

const float *floats(const void *data) { return static_cast<const float *>(data); }

void require_route(Route route) {
  if (route == Route::none) {
    throw std::invalid_argument("no native kernel serves this convolution");
  }
}

}  // namespace

Route route(const Pair &pair) {
  if (pair.depthwise) {
    return Route::depthwise;
  }
  return pair.dense && pair.scalar == Scalar::f32 ? Route::dense : Route::none;
}

bool wins(const Pair &pair, bool backward) {
  const Route way = route(pair);
  return way == Route::dense ? dense_wins(pair, backward) : way == Route::depthwise;
}

void forward(const Pair &pair, const PairData &data, void *y) {
  const Route way = route(pair);
  require_route(way);
  if (way == Route::dense) {
    kernels().dense_forward(pair, floats(data.x), floats(data.w1), floats(data.w2), floats(data.b1),
                            floats(data.b2), static_cast<float *>(y));
    return;
  }
  const Strip one = strip(pair, data);
  Depthwise problem = depthwise<Depthwise>(pair);
  problem.strips = &one;
  problem.count = 1;
  kernels().depthwise_forward(problem, pair.scalar, data.x, y);
}

void backward(const Pair &pair, const PairData &data, const void *grad_y, const Gradients &grad) {
  const Route way = route(pair);
  require_route(way);
  if (way == Route::dense) {
    kernels().dense_backward(pair, floats(data.x), floats(data.w1), floats(data.w2),
                             floats(data.b1), floats(grad_y), grad);
    return;
  }
  depthwise_backward(pair, data, grad_y, grad, nullptr);
}

Route route(const Strips &strips) {
  for (const Pair &pair : strips.pairs) {
    const bool plain =
        pair.row.stride == 1 && pair.column.stride == 1 && pair.activation == Activation::none;
    if (!pair.depthwise || !plain || pair.row_first != strips.pairs[0].row_first) {
      return Route::none;
    }
  }
  return Route::depthwise;
}

bool wins(const Strips &strips) { return route(strips) != Route::none; }

void forward(const Strips &strips, const std::vector<PairData> &data, void *y) {
  require_route(route(strips));
  std::vector<Strip> all;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    all.push_back(strip(strips.pairs[i], data[i]));
  }
  if (strips.residual) {
    all.push_back({});
  }
  Depthwise problem = depthwise<Depthwise>(strips.pairs[0]);
  problem.strips = all.data();
  problem.count = static_cast<int>(all.size());
  kernels().depthwise_forward(problem, strips.pairs[0].scalar, data[0].x, y);
}

// Strip after strip adds to the gradient of x, which begins as the residual's.
void backward(const Strips &strips, const std::vector<PairData> &data, const void *grad_y,
              std::vector<Gradients> grad) {
  require_route(route(strips));
  void *grad_x = grad[0].x;
  const void *add = strips.residual ? grad_y : nullptr;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    grad[i].x = grad_x;
    depthwise_backward(strips.pairs[i], data[i], grad_y, grad[i], add);
    add = grad_x;
  }
}

}  // namespace pyphase::conv
