// The dense pair: y = conv(act(conv(x, w1) + b1), w2) + b2.
//
// A task is a strip of the image along the first convolution's axis. It marches
// along the second's: a few lines of the intermediate are made and stay in the
// L2 cache until the lines of y that read them are done, so no intermediate is
// computed twice or leaves the core. Memory traffic: x (with the strip's
// overlaps) and y once, the weights once a task from the L3 cache.
// Channels-first images are transposed on their way, a few lines at a time.
#pragma once

#include "../parallel.h"
#include "activation.h"
#include "dense_pack.h"
#include "dense_plan.h"
#include "dense_team.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

struct ForwardPlan {
  long strips, grain;  // of the first axis, per image
  long step;           // lines of y at a time
  long lines;          // of the intermediate in the buffer

  explicit ForwardPlan(const Pair &p) {
    const Extents extents(p);
    const Axis &second = second_axis(p);
    const long pixel = 4 * whole_vectors(p.channels[1]);  // bytes
    // A line of pixels that read few taps is a task of the tiles of its own: 6 pixels fill one.
    const long least_b = std::min<long>(kTilePixels, extents.y_b);
    const long run = p.channels_last ? 1 : 16;  // neighbours in memory, a cache line of them
    // Channels-first strips transpose what they share of x again: it shall be a half at most.
    const long shared = p.channels_last ? 0 : 2 * (first_axis(p).reach() - 1);
    const long narrow = p.row_first
                            ? std::max(p.channels_last ? 4 : run, ceil_div(shared, run) * run)
                            : std::max<long>(kTilePixels, shared);
    const long least_a = std::min(narrow, extents.mid_a);
    // Half of the L2 cache for a whole image, where nothing has to be moved; else the step's part
    // of the intermediate takes up to 96 KB, and so do its parts of x and y, more or less. (A
    // channels-first x and y need buffers of their own.)
    const long whole = (p.channels_last ? kL2 / 2 : kL2 / 4) / pixel, part = 96 * 1024 / pixel;
    const long reach = std::min(second.reach(), extents.b);
    long width = least_a;  // short strips where the lines along b are neighbours in memory
    if (extents.mid_a * extents.b <= whole) {
      width = extents.mid_a;
    } else if (p.row_first) {
      width = part / (least_b * second.stride + reach) / run * run;
      width = std::clamp(width, least_a, extents.mid_a);
    }
    // Enough tasks, all alike, but of 48 pixels at least, so that a panel of weights serves 8
    // tiles, and no narrower than transposing allows where that is not drowned in arithmetic.
    const long enough = std::max<long>(kEnoughTasks, most_threads());
    const long tasks = std::max(1L, ceil_div(enough, std::max(1L, long{p.batch})));
    const bool heavy = p.channels[1] * first_axis(p).kernel >= 512;
    const long most = std::clamp(
        extents.mid_a * extents.y_b / 48, 1L,
        std::max(1L, p.channels_last || heavy ? extents.mid_a / 2 : extents.mid_a / least_a));
    strips = ceil_div(extents.mid_a, width);
    strips = std::min(most, std::max(1L, (strips + tasks / 2) / tasks) * tasks);
    grain = p.row_first && extents.mid_a / strips >= run ? run : 1;
    const long columns = ceil_div(ceil_div(extents.mid_a, grain), strips) * grain;
    if (columns * extents.b <= whole) {
      step = extents.y_b;
      lines = extents.b;
      return;
    }
    const long most_lines = (part / columns - reach) / second.stride + 1;
    step = std::clamp(most_lines, least_b, extents.y_b);
    step = ceil_div(extents.y_b, ceil_div(extents.y_b, step));
    if (!p.row_first) {
      step = std::min(extents.y_b, ceil_div(step, run) * run);
    }
    lines = std::min(extents.b, (step - 1) * second.stride + second.reach());
  }
};

namespace detail {

struct ForwardTask {
  const Pair &pair;
  const ForwardPlan &plan;
  Packed first, second;
  const float *x;
  float *y;
  bool streams;  // y, past the caches
};

struct ForwardMemory {
  long mid, x, y;  // floats

  ForwardMemory(const Pair &p, const ForwardPlan &plan) {
    const Extents extents(p);
    const Axis &one = first_axis(p);
    const long a = ceil_div(ceil_div(extents.mid_a, plan.grain), plan.strips) * plan.grain;
    mid = a * plan.lines * whole_vectors(p.channels[1]);
    const long x_a = std::min(extents.x_a, (a - 1) * one.stride + one.reach());
    x = p.channels_last ? 0 : x_a * plan.lines * p.channels[0];
    y = p.channels_last ? 0 : a * plan.step * kPanel;
  }
  long size() const { return align_floats(mid) + align_floats(x) + align_floats(y); }
};

inline void forward_strip(const ForwardTask &task, long image, Range strip, float *memory) {
  const Pair &p = task.pair;
  const Extents extents(p);
  const Axis &one = first_axis(p), &two = second_axis(p);
  const Image in = Image::of(p, p.channels[0], p.height, p.width);
  const Image out = Image::of(p, p.channels[2], p.out_height, p.out_width);
  const ForwardMemory sizes(p, task.plan);
  float *mid = memory, *packed_x = mid + align_floats(sizes.mid),
        *staged = packed_x + align_floats(sizes.x);
  const float *x = task.x + image * in.batch;
  float *y = task.y + image * out.batch;
  const long channels = whole_vectors(p.channels[1]);
  const Steps mid_steps{channels, strip.size() * channels};  // along a, along b
  const Range inputs{
      std::clamp<long>(strip.begin * one.stride - one.pad, 0, extents.x_a),
      std::clamp<long>((strip.end - 1) * one.stride - one.pad + one.reach(), 0, extents.x_a)};
  const Direct reach_one{one, extents.x_a}, reach_two{two, extents.b};
  long top = 0, next = 0;  // the line in the buffer's first place, the next one to be made
  for (long begin = 0; begin < extents.y_b; begin += task.plan.step) {
    const Range lines{begin, std::min(extents.y_b, begin + task.plan.step)};
    const long need = std::clamp<long>(lines.begin * two.stride - two.pad, 0, extents.b);
    const long end =
        std::clamp<long>((lines.end - 1) * two.stride - two.pad + two.reach(), need, extents.b);
    if (next < need) {
      top = next = need;
    }
    if (end - top > task.plan.lines) {
      std::memmove(mid, mid + (need - top) * mid_steps.across,
                   static_cast<std::size_t>((next - need) * mid_steps.across) * sizeof(float));
      top = need;
    }
    if (end > next) {
      const float *from = x;
      Steps from_steps{in.a, in.b};
      if (!p.channels_last) {
        const Buffer buffer = Buffer::of(p, inputs.size(), end - next, p.channels[0]);
        to_channels_last(window(p, inputs.size(), end - next, p.channels[0]),
                         x + inputs.begin * in.a + next * in.b, in.channel, in.row, packed_x,
                         buffer.row, buffer.column);
        from = packed_x - inputs.begin * buffer.a - next * buffer.b;
        from_steps = {buffer.a, buffer.b};
      }
      float *to = mid - strip.begin * mid_steps.along - top * mid_steps.across;
      for (long panel = 0; panel < task.first.panels(); ++panel) {
        convolve_panel(reach_one, task.first, panel, {p.activation == Activation::relu}, from,
                       from_steps, to + panel * kPanel, mid_steps, strip, {next, end});
      }
      if (p.activation != Activation::none && p.activation != Activation::relu) {
        activate_row(p.activation, mid + (next - top) * mid_steps.across,
                     (end - next) * mid_steps.across);
      }
      next = end;
    }
    const float *from = mid - top * mid_steps.across - strip.begin * mid_steps.along;
    const Steps from_steps{mid_steps.across, mid_steps.along};
    const Buffer stage = Buffer::of(p, strip.size(), lines.size(), kPanel);
    for (long panel = 0; panel < task.second.panels(); ++panel) {
      if (p.channels_last) {
        convolve_panel(reach_two, task.second, panel, {false, task.streams}, from, from_steps,
                       y + panel * kPanel, {out.b, out.a}, lines, strip);
        continue;
      }
      convolve_panel(reach_two, task.second, panel, {}, from, from_steps,
                     staged - strip.begin * stage.a - lines.begin * stage.b, {stage.b, stage.a},
                     lines, strip);
      const long lanes = std::min<long>(kPanel, p.channels[2] - panel * kPanel);
      to_channels_first(
          window(p, strip.size(), lines.size(), lanes), staged, stage.row, stage.column,
          y + panel * kPanel * out.channel + strip.begin * out.a + lines.begin * out.b, out.channel,
          out.row);
    }
  }
}

}  // namespace detail

inline void dense_forward(const Pair &p, const float *x, const float *w1, const float *w2,
                          const float *b1, const float *b2, float *y) {
  const Extents extents(p);
  if (p.batch == 0 || extents.mid_a == 0 || extents.y_b == 0 || p.channels[2] == 0) {
    return;
  }
  const ForwardPlan plan(p);
  Packing first = Packing::forward(w1, p.channels[1], p.channels[0], first_axis(p).kernel, b1);
  Packing second = Packing::forward(w2, p.channels[2], p.channels[1], second_axis(p).kernel, b2);
  const Team team(first.size() + second.size(), detail::ForwardMemory(p, plan).size());
  first.packed = team.shared();
  second.packed = first.packed + first.size();
  const detail::ForwardTask task{p, plan, first.result(), second.result(), x, y, may_stream(p, y)};
  const long tasks = p.batch * plan.strips;
  team.run(tasks == 1, [&](Team::Member member) {
    member.each(first.panels() + second.panels(), [&](long i) {
      i < first.panels() ? first.pack(i) : second.pack(i - first.panels());
    });
    member.each(tasks, [&](long i) {
      const Range strip = part(extents.mid_a, plan.strips, i / p.batch, plan.grain);
      detail::forward_strip(task, i % p.batch, strip, member.memory);
      if (task.streams) {
        finish_streams();
      }
    });
  });
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
