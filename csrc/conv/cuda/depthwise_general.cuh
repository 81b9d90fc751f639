// Depthwise pairs and sums of them, forward, for what depthwise_march is not compiled for: any
// kernel, stride, dilation and padding, both orders, an activation between, any number of strips.
//
// Layout: NCHW or NHWC, dense; float32, bfloat16, float16, summed in float32.
// Algorithm: a block owns some channels and a tile of the output. It holds the tile of x with its
// halo, the intermediate of one strip after another, and the output's sums in shared memory, whole
// planes where they fit.
// Memory: x once with the halos of the tiles; y once. Each product reads two floats of shared
// memory: this kernel is for coverage, and for small planes.
// Who wins it: not known. Executed functionally as PTX on a CPU interpreter; never run on a GPU.
#pragma once

#include "depthwise_tile.cuh"

namespace pyphase::conv::cuda {

template <class T>
__global__ void __launch_bounds__(kGeneralThreads)
    depthwise_general(const __grid_constant__ GeneralArgs a) {
  PYPHASE_SHARED(float, shared);
  const GeneralBlock block(a);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int x_size = a.x_height * a.x_width, out_size = a.tile_height * a.tile_width;
  const PlaneTile x = block.tile(shared, x_size);
  const PlaneTile mid = block.tile(x.data + a.planes * x_size, a.mid_size);
  const PlaneTile sums = block.tile(mid.data + a.planes * a.mid_size, out_size);
  float *const weights = sums.data + a.planes * out_size;

  int before_row = a.strips[0].vertical.pad, before_column = a.strips[0].horizontal.pad;
  for (int s = 1; s < a.count; ++s) {
    const int up = a.strips[s].vertical.pad, left = a.strips[s].horizontal.pad;
    before_row = up > before_row ? up : before_row;
    before_column = left > before_column ? left : before_column;
  }
  const int stride_down = a.strips[0].vertical.stride;
  const int stride_across = a.strips[0].horizontal.stride;
  block.fill<T>(x, a.x, a.x_height, a.x_width, block.row * stride_down - before_row,
                block.column * stride_across - before_column, a.height, a.width);
  block.fill_weights<T>(weights);

  const float *taps = weights;
  for (int s = 0; s < a.count; ++s) {
    const GeneralStrip &strip = a.strips[s];
    const TapAxis &down = strip.vertical, &across = strip.horizontal;
    const TapAxis &first = strip.first(), &second = strip.second();
    const float *const taps2 = taps + first.kernel * a.planes;
    const float *const biases = taps2 + second.kernel * a.planes;
    // The intermediate: outputs along the first axis, inputs along the second.
    const int mid_height =
        strip.row_first ? inputs_of({0, a.tile_height}, down).count : a.tile_height;
    const int mid_width =
        strip.row_first ? a.tile_width : inputs_of({0, a.tile_width}, across).count;
    const int mid_row = strip.row_first ? block.row * down.stride - down.pad : block.row;
    const int mid_column =
        strip.row_first ? block.column : block.column * across.stride - across.pad;
    const int most_row = strip.row_first ? a.height : a.out_height;
    const int most_column = strip.row_first ? a.out_width : a.width;
    const int from = (before_row - down.pad) * a.x_width + before_column - across.pad;
    const int step_row = strip.row_first ? a.x_width : down.stride * a.x_width;
    const int step_column = strip.row_first ? across.stride : 1;
    const int step_tap = strip.row_first ? across.dilation : down.dilation * a.x_width;
    __syncthreads();
    const int mid_pixels = mid_height * mid_width;
    for (int e = thread; e < a.planes * mid_pixels; e += threads) {
      const Item it = block.item(e, mid_pixels);
      const int i = it.pixel / mid_width, j = it.pixel % mid_width;
      const int row = mid_row + i, column = mid_column + j;
      float sum = 0;
      if (row >= 0 && row < most_row && column >= 0 && column < most_column) {
        sum = biases[it.plane];
        const int at = from + i * step_row + j * step_column;
        for (int t = 0; t < first.kernel; ++t) {
          sum = fmaf(taps[t * a.planes + it.plane], x.at(it.plane, at + t * step_tap), sum);
        }
        sum = activate(a.activation, sum);
      }
      mid.at(it.plane, it.pixel) = sum;
    }
    if (PYPHASE_MUTANT != 6) {
      __syncthreads();
    }
    const int next_row = strip.row_first ? down.stride * mid_width : mid_width;
    const int next_column = strip.row_first ? 1 : across.stride;
    const int next_tap = strip.row_first ? down.dilation * mid_width : across.dilation;
    for (int e = thread; e < a.planes * out_size; e += threads) {
      const Item it = block.item(e, out_size);
      const int i = it.pixel / a.tile_width, j = it.pixel % a.tile_width;
      float sum = biases[a.planes + it.plane];
      const int at = i * next_row + j * next_column;
      for (int t = 0; t < second.kernel; ++t) {
        sum = fmaf(taps2[t * a.planes + it.plane], mid.at(it.plane, at + t * next_tap), sum);
      }
      if (s > 0) {
        sum += sums.at(it.plane, it.pixel);
      } else if (a.residual) {
        sum += x.at(it.plane, (i + before_row) * a.x_width + j + before_column);
      }
      if (s + 1 < a.count) {
        sums.at(it.plane, it.pixel) = sum;
        continue;
      }
      const int row = block.row + i, column = block.column + j;
      if (it.plane < block.channels && row < a.out_height && column < a.out_width) {
        static_cast<T *>(a.y)[block.place(it.plane, row, column, a.out_height, a.out_width)] =
            from_float<T>(sum);
      }
    }
    taps = biases + 2 * a.planes;
  }
}

}  // namespace pyphase::conv::cuda
