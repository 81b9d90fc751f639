#include "problem.h"

#include <stdexcept>
#include <utility>

namespace pyphase::conv {
namespace {

// Sizes up to here leave room for every product and sum that the kernels form.
constexpr std::int64_t kLargest = std::int64_t{1} << 40;
constexpr std::int64_t kLargestAxis = std::int64_t{1} << 30;

void require(bool holds, const char *what) {
  if (!holds) {
    throw std::invalid_argument(std::string("a convolution pair: ") + what);
  }
}

void require_shape(const Shape &shape, std::int64_t least_batch) {
  std::int64_t numel = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] >= (i == 0 ? least_batch : 1), "sizes must be positive");
    require(shape[i] <= kLargestAxis, "a size is too large");
    require(shape[i] == 0 || numel <= kLargest / shape[i], "a tensor is too large");
    numel *= shape[i];
  }
}

std::int64_t output_size(std::int64_t size, std::int64_t begin, std::int64_t end,
                         const Axis &axis) {
  const std::int64_t room = size + begin + end - axis.reach();
  require(room >= 0, "the kernel is larger than the padded input");
  return room / axis.stride + 1;
}

Axis make_axis(std::int64_t kernel, std::int64_t stride, std::int64_t dilation, std::int64_t begin,
               std::int64_t end) {
  require(stride > 0 && dilation > 0, "stride and dilation must be positive");
  require(begin >= 0 && end >= 0, "padding must not be negative");
  require(stride <= kLargestAxis && dilation <= kLargestAxis, "a stride or dilation is too large");
  require(begin <= kLargestAxis && end <= kLargestAxis, "a padding is too large");
  return {kernel, stride, dilation, begin};
}

Activation parse_activation(const std::string &name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  throw std::invalid_argument("unknown activation '" + name + "'");
}

Scalar parse_scalar(const std::string &dtype) {
  if (dtype == "float32") return Scalar::f32;
  if (dtype == "float64") return Scalar::f64;
  if (dtype == "bfloat16") return Scalar::bf16;
  if (dtype == "float16") return Scalar::f16;
  throw std::invalid_argument("unknown dtype '" + dtype + "'");
}

}  // namespace

Pair make_pair(const PairRequest &r) {
  require_shape(r.input, 0);
  require_shape(r.weight1, 1);
  require_shape(r.weight2, 1);
  // Weights are (out, in / groups, vertical, horizontal). A 1x1 may be either: the first is a row.
  const bool row_first = r.weight1[2] == 1 && r.weight2[3] == 1;
  require(row_first || (r.weight1[3] == 1 && r.weight2[2] == 1),
          "one weight must be (., ., 1, k), the other (., ., k, 1)");
  const std::int64_t row_kernel = row_first ? r.weight1[3] : r.weight2[3];
  const std::int64_t column_kernel = row_first ? r.weight2[2] : r.weight1[2];

  Pair pair{};
  pair.batch = r.input[0];
  pair.height = r.input[2];
  pair.width = r.input[3];
  pair.channels[0] = r.input[1];
  pair.channels[1] = r.weight1[0];
  pair.channels[2] = r.weight2[0];
  pair.row = make_axis(row_kernel, r.stride[1], r.dilation[1], r.padding[2], r.padding[3]);
  pair.column = make_axis(column_kernel, r.stride[0], r.dilation[0], r.padding[0], r.padding[1]);
  pair.row_first = row_first;
  pair.channels_last = r.channels_last;
  for (int i = 0; i < 2; ++i) {
    const Shape &weight = i == 0 ? r.weight1 : r.weight2;
    const std::int64_t groups = r.groups[static_cast<std::size_t>(i)];
    require(groups > 0 && groups <= kLargestAxis, "groups must be positive");
    require(weight[1] <= kLargestAxis && weight[1] * groups == pair.channels[i] &&
                weight[0] % groups == 0,
            "channels and groups don't match");
  }
  pair.depthwise = r.groups[0] == r.groups[1] && r.groups[0] == pair.channels[0] &&
                   pair.channels[0] == pair.channels[1] && pair.channels[1] == pair.channels[2];
  pair.dense = r.groups[0] == 1 && r.groups[1] == 1;
  pair.out_height = output_size(pair.height, r.padding[0], r.padding[1], pair.column);
  pair.out_width = output_size(pair.width, r.padding[2], r.padding[3], pair.row);
  require_shape({pair.batch, pair.channels[2], pair.out_height, pair.out_width}, 0);
  require_shape({pair.batch, pair.channels[1], pair.mid_height(), pair.mid_width()}, 0);
  pair.activation = parse_activation(r.activation);
  pair.scalar = parse_scalar(r.dtype);
  return pair;
}

Strips make_strips(std::vector<Pair> pairs, bool residual) {
  if (pairs.empty()) {
    throw std::invalid_argument("a sum of strips: at least one pair is needed");
  }
  const Pair &one = pairs[0];
  for (const Pair &pair : pairs) {
    if (pair.batch != one.batch || pair.height != one.height || pair.width != one.width ||
        pair.channels[0] != one.channels[0] || pair.channels[2] != one.channels[0] ||
        pair.channels_last != one.channels_last || pair.scalar != one.scalar ||
        pair.out_height != one.height || pair.out_width != one.width) {
      throw std::invalid_argument(
          "a sum of strips: all pairs must map one image to images of its size, layout and dtype");
    }
  }
  return {std::move(pairs), residual};
}

}  // namespace pyphase::conv
