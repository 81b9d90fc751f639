// The gradient of x of a dense pair in one kernel, and the two images that the weights' gradients
// are sums over.
//
// The transpose of the pair is a pair again, of flipped weights, first along the axis of the second
// convolution; where that has stride s, over an image with s - 1 zeros between its pixels. So this
// is the forward kernel, with two things in the middle. Before a pass of the gradient of the
// intermediate, the same pass of the intermediate itself is made again from x; its slope waits in
// the place where the gradient will be, written and read by one thread. Then the activated
// intermediate and its gradient go to the workspace, rounded to T, each pixel by the one tile that
// owns it.
//
// Memory: x and grad_y with halos along both axes, the gradient of x, and one write each of the
// intermediate and its gradient. The gradients of the weights are not fused with it: their sums run
// over all pixels, while a block has no room for taps x channels x channels sums, so each block
// would write a whole set of partial sums; dense_weight.cuh reads the two images instead, twice
// their bytes. Without gradients of weights nothing of the intermediate is written.
#pragma once

#include "dense_forward.cuh"

namespace pyphase::conv::cuda {

template <class T, bool kFma, int kNj>
__device__ __forceinline__ void dense_gradient_middle(const DenseGradientArgs &all, int image,
                                                      int a, int mid_b, bool last, char *shared) {
  const DensePairArgs &args = all.pair;
  const int pitch = dense_pitch(args.first.chunk), x_pitch = dense_pitch(all.weights.chunk);
  const int buffer_bytes = args.lines * args.slots * pitch;
  const int x_buffer_bytes = (args.lines + all.halo_lines) * args.tile_a * x_pitch;
  const int width = args.second.inputs, up = args.x.up_b;
  const DenseLanes<kFma> lanes(args.tile_a, args.lines);
  char *staged = shared + args.x_offset, *ring = shared + args.weight_offset;
  const bool again = all.mid || args.activation != static_cast<int>(Activation::none);
  for (int line = 0; line < args.mid_lines; line += args.lines) {
    const int count = dense_least(args.lines, args.mid_lines - line);
    const DenseTile tile{image,     a - args.pad_a, mid_b + line * args.step,
                         args.step, args.reach,     count,
                         1,         args.phase,     args.slots};
    const DenseTile x_tile{image,     a,           mid_b + line * args.step - all.pad,
                           args.step, args.tile_a, count + all.halo_lines,
                           1,         args.tile_a, args.tile_a};
    // Where a result belongs: its place in shared memory, and its row in the workspace or -1.
    const auto place = [&](int row, int channel, char *&to, std::int64_t &at) {
      const int down = row / args.tile_a, along = row - down * args.tile_a;
      to = shared + (line * args.tile_a + row) * args.mid_pitch +
           channel * static_cast<int>(sizeof(T));
      const int b = mid_b + (line + down) * args.step;
      const bool valid = b >= 0 && b < args.mid_b * up && b % up == 0;
      const bool own = a + along < args.out_a && (last || line + down < args.tile_b);
      at = valid && own
               ? ((std::int64_t{image} * args.mid_b + b / up) * args.out_a + a + along) * width +
                     channel
               : -1;
      return down < count && channel < width ? 1 + valid : 0;
    };
    for (int output = 0; output < args.first.outputs; output += 16 * kNj) {
      DenseSums<kNj> acc;
      if (again) {
        dense_pass<T, kFma, kNj>(
            acc, all.weights, output, ring,
            [&](int chunk) {
              dense_stage<T>(all.x, x_tile, chunk, all.weights.chunk, args.a_contiguous,
                             staged + chunk % all.buffers * x_buffer_bytes);
            },
            [&](int i, int chunk, int tap) {
              const int down = lanes.line[i] < count ? lanes.line[i] : 0;
              const int row = (down + tap * args.tap_lines) * args.tile_a + lanes.a[i];
              return staged + chunk % all.buffers * x_buffer_bytes + row * x_pitch;
            });
        dense_results<kNj>(acc, [&](int row, int column, float first, float second) {
          char *to;
          std::int64_t at;
          if (place(row, output + column, to, at)) {
            const float h[2] = {first, second};
            float value[2], slopes[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int channel = output + column + e;
              const float full =
                  h[e] +
                  (channel < all.weights.channels ? load_one<T>(all.weights.bias, channel) : 0.0f);
              value[e] = activate(args.activation, full);
              slopes[e] = slope(args.activation, full);
            }
            dense_store_pair<T>(to, slopes[0], slopes[1]);
            if (all.mid && at >= 0) {
              dense_store_pair<T>(static_cast<T *>(all.mid) + at, value[0], value[1]);
            }
          }
        });
      }
      dense_pass<T, kFma, kNj>(
          acc, args.first, output, ring,
          [&](int chunk) {
            dense_stage<T>(args.x, tile, chunk, args.first.chunk, args.a_contiguous,
                           staged + chunk % args.buffers * buffer_bytes);
          },
          [&](int i, int chunk, int tap) {
            const int at = lanes.line[i] < count ? lanes.line[i] * args.slots + lanes.a[i] : 0;
            return staged + chunk % args.buffers * buffer_bytes +
                   (at + tap * args.first.dilation) * pitch;
          });
      dense_results<kNj>(acc, [&](int row, int column, float first, float second) {
        char *to;
        std::int64_t at;
        const int known = place(row, output + column, to, at);
        if (known) {
          float slopes[2] = {1.0f, 1.0f};
          if (again) {
            slopes[0] = to_float(reinterpret_cast<const T *>(to)[0]);
            slopes[1] = to_float(reinterpret_cast<const T *>(to)[1]);
          }
          const float value[2] = {known == 2 ? first * slopes[0] : 0.0f,
                                  known == 2 ? second * slopes[1] : 0.0f};
          dense_store_pair<T>(to, value[0], value[1]);
          if (all.grad_mid && at >= 0) {
            dense_store_pair<T>(static_cast<T *>(all.grad_mid) + at, value[0], value[1]);
          }
        }
      });
    }
  }
}

// 128 registers a thread at most: two blocks an SM.
template <class T, bool kFma>
__global__ void __launch_bounds__(kDenseThreads, 2) dense_gradient(const DenseGradientArgs all) {
  PYPHASE_SHARED(char, shared);
  const DensePairArgs &args = all.pair;
  const int tile = static_cast<int>(blockIdx.x) % (args.tiles_a * args.tiles_b);
  const int image = static_cast<int>(blockIdx.x) / (args.tiles_a * args.tiles_b);
  const int a = tile % args.tiles_a * args.tile_a, row = tile / args.tiles_a;
  const int b = dense_line(args, row), mid_b = b - args.pad_b;
  const bool last = row + args.step >= args.tiles_b;  // of the lines that are `step` apart
  if (args.first.outputs <= 32) {
    dense_gradient_middle<T, kFma, 2>(all, image, a, mid_b, last, shared);
  } else {
    dense_gradient_middle<T, kFma, 4>(all, image, a, mid_b, last, shared);
  }
  if (!args.y) {
    return;
  }
  if (args.second.outputs <= 32) {
    dense_second<T, kFma, 2>(args, image, a, b, shared);
  } else {
    dense_second<T, kFma, 4>(args, image, a, b, shared);
  }
}

}  // namespace pyphase::conv::cuda
