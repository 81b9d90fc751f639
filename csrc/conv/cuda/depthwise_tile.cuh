// A block's place and its tiles in shared memory, for depthwise_general and depthwise_gradient.
#pragma once

#include "depthwise_common.cuh"

namespace pyphase::conv::cuda {

// Pixels of several channels as floats: channel by channel, or pixel by pixel (NHWC), so that
// neighbours in global memory are neighbours here.
struct PlaneTile {
  float *data;
  int pixel, plane;  // steps

  __device__ __forceinline__ float &at(int channel, int index) const {
    return data[channel * plane + index * pixel];
  }
};

struct Item {
  int plane, pixel;
};

class GeneralBlock {
 public:
  __device__ __forceinline__ explicit GeneralBlock(const GeneralArgs &args) : a_(args) {
    int block = static_cast<int>(blockIdx.x);
    const int across = block % a_.tiles_across;
    block /= a_.tiles_across;
    const int down = block % a_.tiles_down;
    block /= a_.tiles_down;
    channel = block % a_.channel_blocks * a_.planes;
    image = block / a_.channel_blocks;
    row = down * a_.tile_height;
    column = across * a_.tile_width;
    slice = (image * a_.tiles_down + down) * a_.tiles_across + across;
    const int left = a_.channels - channel;
    channels = left < a_.planes ? left : a_.planes;
  }

  __device__ __forceinline__ PlaneTile tile(float *data, int pixels) const {
    return a_.channels_last ? PlaneTile{data, a_.planes, 1} : PlaneTile{data, 1, pixels};
  }
  __device__ __forceinline__ Item item(int index, int pixels) const {
    return a_.channels_last ? Item{index % a_.planes, index / a_.planes}
                            : Item{index / pixels, index % pixels};
  }
  // Place of a pixel of an image of this size, in elements.
  __device__ __forceinline__ std::int64_t place(int plane, int at_row, int at_column, int height,
                                                int width) const {
    const std::int64_t size = static_cast<std::int64_t>(height) * width;
    const int pixel = at_row * width + at_column, own = channel + plane;
    return image * size * a_.channels + (a_.channels_last
                                             ? static_cast<std::int64_t>(pixel) * a_.channels + own
                                             : own * size + pixel);
  }

  // Part of an image to a tile of `rows` x `columns`; zeros where there is no image.
  template <class T>
  __device__ __forceinline__ void fill(const PlaneTile &to, const void *from, int rows, int columns,
                                       int first_row, int first_column, int height,
                                       int width) const {
    const int pixels = rows * columns;
    for (int i = static_cast<int>(threadIdx.x); i < a_.planes * pixels;
         i += static_cast<int>(blockDim.x)) {
      const Item it = item(i, pixels);
      const int at_row = first_row + it.pixel / columns;
      const int at_column = first_column + it.pixel % columns;
      const bool inside = it.plane < channels && at_row >= 0 && at_row < height && at_column >= 0 &&
                          at_column < width + (PYPHASE_MUTANT == 5);
      to.at(it.plane, it.pixel) =
          inside ? to_float(static_cast<const T *>(
                       from)[place(it.plane, at_row, at_column, height, width)])
                 : 0.0f;
    }
  }

  // All taps to weights[tap * planes + plane].
  template <class T>
  __device__ __forceinline__ void fill_weights(float *weights) const {
    int begin = 0;
    for (int s = 0; s < a_.count; ++s) {
      const GeneralStrip &strip = a_.strips[s];
      const int first = strip.first().kernel, second = strip.second().kernel;
      const void *const from1 = strip.row_first ? strip.weights.horizontal : strip.weights.vertical;
      const void *const from2 = strip.row_first ? strip.weights.vertical : strip.weights.horizontal;
      const int taps = first + second + 2;
      for (int i = static_cast<int>(threadIdx.x); i < a_.planes * taps;
           i += static_cast<int>(blockDim.x)) {
        const int plane = i / taps, tap = i % taps, own = channel + plane;
        float value = 0;
        if (plane < channels) {
          value = tap < first             ? load_one<T>(from1, own * first + tap)
                  : tap < first + second  ? load_one<T>(from2, own * second + tap - first)
                  : tap == first + second ? load_one<T>(strip.weights.bias1, own)
                                          : load_one<T>(strip.weights.bias2, own);
        }
        weights[(begin + tap) * a_.planes + plane] = value;
      }
      begin += taps;
    }
  }

  int channel, channels, image, row, column, slice;

 private:
  const GeneralArgs &a_;
};

}  // namespace pyphase::conv::cuda
