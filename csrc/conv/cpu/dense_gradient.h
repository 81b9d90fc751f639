// The gradient of a convolution's weights over a rectangle of pixels, and of a bias.
#pragma once

#include "dense_pack.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

// A channels-last image at pixel (0, 0), which need not exist; along and across as a pass sees it.
struct View {
  const float *data;
  Steps steps;

  View turned() const { return {data, {steps.across, steps.along}}; }
};

// A rectangle of pixels by panels of channels: [panel][pixel][lane].
struct Panels {
  float *data;
  long channels, pixels;
  long along, across;  // pixels from one to the next
  long origin;         // where (0, 0) would be, in pixels before the first

  long count() const { return ceil_div(channels, kPanel); }
  long width(long panel) const {
    return std::min<long>(kPanel, whole_vectors(channels - panel * kPanel));
  }
  float *at(long panel) const { return data + panel * kPanel * pixels - origin * width(panel); }
  Steps steps(long panel) const { return {along * width(panel), across * width(panel)}; }
  Panels turned() const { return {data, channels, pixels, across, along, origin}; }
};

// What a convolution's weights gain over a rectangle of pixels: one side gives the rows, which are
// broadcast, the other one the lanes.
struct WeightGradient {
  static constexpr long kRowStep = 8;  // of the copy of the rows, in floats

  Axis axis;
  bool rows_are_inputs;
  Range inputs, outputs, across;  // that the sides hold, none of them empty
  View rows;
  Panels lanes;
  float *sums;  // [tap][row][lane], lanes in whole vectors
  long row_count;
  bool add;       // to the sums that are there
  float *packed;  // kRowStep floats for each pixel of the rows' side

  View pack_rows(long row, int count) const;
  void run() const;
};

namespace detail {

template <int kVectors>
inline void multiply(int rows, const ProductTile &tile) {
  switch (rows) {
    case 1:
      return dense::multiply<1, kVectors>(tile);
    case 2:
      return dense::multiply<2, kVectors>(tile);
    case 3:
      return dense::multiply<3, kVectors>(tile);
    case 4:
      return dense::multiply<4, kVectors>(tile);
    case 5:
      return dense::multiply<5, kVectors>(tile);
    default:
      return dense::multiply<6, kVectors>(tile);
  }
}

inline void multiply(int rows, long vectors, const ProductTile &tile) {
  switch (vectors) {
    case 1:
      return multiply<1>(rows, tile);
    case 2:
      return multiply<2>(rows, tile);
    default:
      if constexpr (kTileVectors > 2) {
        return vectors == 3 ? multiply<3>(rows, tile) : multiply<4>(rows, tile);
      }
  }
}

}  // namespace detail

// A copy of `count` channels, close together.
inline View WeightGradient::pack_rows(long row, int count) const {
  const Range range = rows_are_inputs ? inputs : outputs;
  float *to = packed;
  for (long i = range.begin; i < range.end; ++i) {
    const float *from = rows.data + i * rows.steps.along + across.begin * rows.steps.across + row;
    for (long j = 0; j < across.size(); ++j, to += kRowStep, from += rows.steps.across) {
      if (count == kTilePixels) {
        std::memcpy(to, from, kTilePixels * sizeof(float));
      } else {
        for (int r = 0; r < count; ++r) {
          to[r] = from[r];
        }
      }
    }
  }
  const long line = across.size() * kRowStep;
  return {packed - range.begin * line - across.begin * kRowStep, {line, kRowStep}};
}

inline void WeightGradient::run() const {
  const long panels = lanes.count(), lane_count = whole_vectors(lanes.channels);
  const long blocks = ceil_div(row_count, kTilePixels);
  // Channels of pixels that lie far apart share few sets of the L1 cache; enough products have to
  // read a copy to be worth it.
  const bool pack =
      std::min(rows.steps.along, rows.steps.across) >= 32 && panels * axis.kernel >= 6;
  for (long block = 0; block < blocks; ++block) {
    const long row = row_count * block / blocks;
    const int count = static_cast<int>(row_count * (block + 1) / blocks - row);
    const View block_rows = pack ? pack_rows(row, count) : View{rows.data + row, rows.steps};
    for (long panel = 0; panel < panels; ++panel) {
      const float *block_lanes = lanes.at(panel);
      const Steps lane_steps = lanes.steps(panel);
      for (long tap = 0; tap < axis.kernel; ++tap) {
        const long shift = tap * axis.dilation - axis.pad;
        const Range valid{
            std::max(outputs.begin, ceil_div(inputs.begin - shift, axis.stride)),
            std::min(outputs.end, floor_div(inputs.end - 1 - shift, axis.stride) + 1)};
        ProductTile tile;
        tile.sums = sums + (tap * row_count + row) * lane_count + panel * kPanel;
        tile.sums_stride = lane_count;
        tile.add = add;
        tile.count = across.size();
        tile.lines = std::max(0L, valid.size());
        const long input = valid.begin * axis.stride + shift;
        const long row_at = rows_are_inputs ? input : valid.begin;
        const long lane_at = rows_are_inputs ? valid.begin : input;
        tile.rows = block_rows.data + row_at * block_rows.steps.along +
                    across.begin * block_rows.steps.across;
        tile.panel = block_lanes + lane_at * lane_steps.along + across.begin * lane_steps.across;
        tile.rows_step = block_rows.steps.across;
        tile.panel_step = lane_steps.across;
        tile.rows_stride = block_rows.steps.along * (rows_are_inputs ? axis.stride : 1);
        tile.panel_stride = lane_steps.along * (rows_are_inputs ? 1 : axis.stride);
        if (tile.rows_stride == tile.count * tile.rows_step &&
            tile.panel_stride == tile.count * tile.panel_step) {
          tile.count *= tile.lines;
          tile.lines = 1;
        } else if (tile.lines > tile.count) {  // the longer loop inside
          std::swap(tile.lines, tile.count);
          std::swap(tile.rows_step, tile.rows_stride);
          std::swap(tile.panel_step, tile.panel_stride);
        }
        detail::multiply(count, lanes.width(panel) / kFloats, tile);
      }
    }
  }
}

// sums[c] += the channels of `pixels` pixels; `channels` in whole vectors.
inline void add_pixels(const float *pixel, long pixels, long step, long channels, float *sums) {
  for (long c = 0; c < channels; c += kFloats) {
    Vec<float> sum = {};
    for (long i = 0; i < pixels; ++i) {
      sum += load(pixel + i * step + c);
    }
    store<float>(sums + c, load(sums + c) + sum);
  }
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
