// The one-dimensional convolution of tiles, along rows or columns: whole vectors, any step.
//
// Up to kOutputs outputs are in registers at once, taps come in chunks of at most kChunk: with the
// chunk's weights and one input they fill the 16 registers of AVX2 (12 + 3 + 1). Within a chunk one
// load of the input feeds up to kChunk outputs, and 12 sums are more than the 8 products in flight.
#pragma once

#include "simd.h"

namespace pyphase::conv::PYPHASE_ISA {

constexpr int kOutputs = 12;
constexpr int kChunk = 3;

// Memory to ask for while sums are made, so that it is on its way in that time: `count` places in
// all, `step` bytes apart.
struct Ahead {
  const char *at = nullptr;
  std::int64_t step = 0, count = 0;

  PYPHASE_INLINE void ask(std::int64_t places) {
    for (places = smaller(places, count); places > 0; --places, --count) {
      __builtin_prefetch(at, 0, 3);
      at += step;
    }
  }
};

// One line of outputs, and `lines` such lines side by side; all steps in elements.
//   dst[l][i] = (add ? dst[l][i] : bias)
//             + sum over t of weights[t] * src[l][i * stride + t * dilation]
template <class T>
struct Pass {
  const T *src;
  std::int64_t src_step, src_line;
  T *dst;
  std::int64_t dst_step, dst_line;
  std::int64_t outputs, lines;
  const T *bias, *weights;  // a vector, and one for each tap
  std::int64_t taps, stride, dilation;
  bool add;
  Ahead ahead = {};
};

namespace detail {

template <int kTaps, int kCount, class T>
PYPHASE_INLINE void accumulate(Vec<T> (&sums)[kCount], const T *src, std::int64_t step,
                               const T *weights) {
  Vec<T> w[kTaps];
#pragma GCC unroll 16
  for (int t = 0; t < kTaps; ++t) {
    w[t] = load(weights + t * kLanes<T>);
  }
#pragma GCC unroll 32
  for (int i = 0; i < kTaps + kCount - 1; ++i) {
    const Vec<T> in = load(src);
    src += step;
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      if (i - r >= 0 && i - r < kTaps) {
        sums[r] = fma<T>(w[i - r], in, sums[r]);
      }
    }
  }
}

// The arguments are values in registers: stores to dst might otherwise change them.
template <int kCount, class T>
__attribute__((noinline)) void dense_lines(const Pass<T> &pass, const T *line_src, T *dst,
                                           std::int64_t lines, std::int64_t src_line,
                                           std::int64_t dst_line, Ahead &ahead) {
  const std::int64_t src_step = pass.src_step, dst_step = pass.dst_step, taps = pass.taps;
  const bool add = pass.add;
  const T *bias = pass.bias;
  for (; lines > 0; --lines) {
    ahead.ask(kCount);
    const T *src = line_src, *weights = pass.weights;
    Vec<T> sums[kCount];
    if (add) {
      const T *from = dst;
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) {
        sums[r] = load(from);
        from += dst_step;
      }
    } else {
      const Vec<T> first = load(bias);
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) {
        sums[r] = first;
      }
    }
    std::int64_t left = taps;
    for (; left >= kChunk; left -= kChunk) {
      accumulate<kChunk>(sums, src, src_step, weights);
      src += kChunk * src_step;
      weights += kChunk * kLanes<T>;
    }
    if (left == 2) {
      accumulate<2>(sums, src, src_step, weights);
    } else if (left == 1) {
      accumulate<1>(sums, src, src_step, weights);
    }
    T *to = dst;
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      store(to, sums[r]);
      to += dst_step;
    }
    dst += dst_line;
    line_src += src_line;
  }
}

template <class T>
PYPHASE_INLINE void dense_lines(std::int64_t outputs, const Pass<T> &pass, const T *src, T *dst,
                                std::int64_t lines, std::int64_t src_line, std::int64_t dst_line,
                                Ahead &ahead) {
  switch (outputs) {
    case 1:
      return dense_lines<1>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 2:
      return dense_lines<2>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 3:
      return dense_lines<3>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 4:
      return dense_lines<4>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 5:
      return dense_lines<5>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 6:
      return dense_lines<6>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 7:
      return dense_lines<7>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 8:
      return dense_lines<8>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 9:
      return dense_lines<9>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 10:
      return dense_lines<10>(pass, src, dst, lines, src_line, dst_line, ahead);
    case 11:
      return dense_lines<11>(pass, src, dst, lines, src_line, dst_line, ahead);
    default:
      return dense_lines<12>(pass, src, dst, lines, src_line, dst_line, ahead);
  }
}

// Inputs that neighbouring outputs don't share, as with a stride: a load for each product. Several
// outputs at once, since each sum's products wait for each other.
template <int kCount, class T>
PYPHASE_INLINE void sparse_outputs(const Pass<T> &pass, const T *src, T *dst) {
  const std::int64_t next = pass.stride * pass.src_step, tap = pass.dilation * pass.src_step;
  Vec<T> sums[kCount];
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    sums[r] = load(pass.add ? dst + r * pass.dst_step : pass.bias);
  }
  for (std::int64_t t = 0; t < pass.taps; ++t, src += tap) {
    const Vec<T> weight = load(pass.weights + t * kLanes<T>);
    const T *from = src;
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r, from += next) {
      sums[r] = fma<T>(weight, load(from), sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    store(dst + r * pass.dst_step, sums[r]);
  }
}

template <class T>
void sparse_lines(const Pass<T> &pass) {
  const std::int64_t next = pass.stride * pass.src_step;
  for (std::int64_t line = 0; line < pass.lines; ++line) {
    const T *src = pass.src + line * pass.src_line;
    T *dst = pass.dst + line * pass.dst_line;
    std::int64_t left = pass.outputs;
    const auto blocks = [&]<int kCount>(std::integral_constant<int, kCount>) {
      for (; left >= kCount; left -= kCount) {
        sparse_outputs<kCount>(pass, src, dst);
        src += kCount * next;
        dst += kCount * pass.dst_step;
      }
    };
    blocks(std::integral_constant<int, 8>{});
    blocks(std::integral_constant<int, 4>{});
    blocks(std::integral_constant<int, 1>{});
  }
}

}  // namespace detail

template <class T>
void convolve(const Pass<T> &pass) {
  if (pass.outputs == 0) {
    return;
  }
  if (pass.stride != 1) {
    detail::sparse_lines(pass);
    return;
  }
  if (pass.dilation != 1) {  // every dilation-th output shares its inputs with the next such one
    Pass<T> part = pass;
    part.dilation = 1;
    part.src_step *= pass.dilation;
    part.dst_step *= pass.dilation;
    for (std::int64_t first = 0; first < pass.dilation && first < pass.outputs; ++first) {
      part.src = pass.src + first * pass.src_step;
      part.dst = pass.dst + first * pass.dst_step;
      part.outputs = (pass.outputs - first + pass.dilation - 1) / pass.dilation;
      convolve(part);
      part.ahead = {};
    }
    return;
  }
  // Blocks of nearly equal size, the larger ones first.
  const std::int64_t blocks = (pass.outputs + kOutputs - 1) / kOutputs;
  std::int64_t size = (pass.outputs + blocks - 1) / blocks;
  const T *src = pass.src;
  T *dst = pass.dst;
  Ahead ahead = pass.ahead;
  const auto run = [&](std::int64_t count) {
    const std::int64_t src_block = size * pass.src_step, dst_block = size * pass.dst_step;
    if (pass.lines == 1 && count > 0) {  // a long line is a row of short ones
      detail::dense_lines(size, pass, src, dst, count, src_block, dst_block, ahead);
    }
    for (std::int64_t block = 0; block < count && pass.lines != 1; ++block) {
      detail::dense_lines(size, pass, src + block * src_block, dst + block * dst_block, pass.lines,
                          pass.src_line, pass.dst_line, ahead);
    }
    src += count * src_block;
    dst += count * dst_block;
  };
  const std::int64_t smaller_ones = size * blocks - pass.outputs;
  run(blocks - smaller_ones);
  --size;
  run(smaller_ones);
}

}  // namespace pyphase::conv::PYPHASE_ISA
