// The gradients of the dense pair.
//
// A task is a band of the image along the second convolution's axis, and marches along the first
// one's. In each step it makes its part of the intermediate again from x, and that part's gradient
// from grad_y; both stay in the cache and give the band's share of the weights' gradients and the
// lines of grad_x that are complete by then. So nothing is computed twice. The shares are added
// band after band in a fixed number of chunks, and the chunks in their order: the number of threads
// changes no bit.
#pragma once

#include "activation.h"
#include "dense_sums.h"

namespace pyphase::conv::PYPHASE_ISA::dense {

// Which of the five gradients are asked for, and what they need.
struct Wanted {
  bool x, w1, w2, b1, b2;
  bool mid_gradient, mid;

  Wanted(const Pair &p, const Gradients &g)
      : x(g.x != nullptr),
        w1(g.w1 != nullptr),
        w2(g.w2 != nullptr),
        b1(g.b1 != nullptr),
        b2(g.b2 != nullptr),
        mid_gradient(x || w1 || b1),
        mid(w2 || (mid_gradient && p.activation != Activation::none)) {}
};

struct BackwardPlan {
  long bands;   // of an image, along the second axis
  long step;    // pixels along the first axis
  long chunks;  // of all bands

  explicit BackwardPlan(const Pair &p) {
    const Extents extents(p);
    const long pixel = 4 * (p.channels[0] + 3 * whole_vectors(p.channels[1]) + p.channels[2]);
    // Three quarters of the L2 cache, or as many pixels as make it worth to load the sums.
    const long pixels = std::max(kL2 * 3 / 4 / pixel, 320L);
    // Pixels that are neighbours in memory: rows as long as may be, of columns 32.
    const long least = p.row_first ? 8 : 32;
    const long lines = std::clamp(pixels / extents.mid_a, std::min(least, extents.b), extents.b);
    bands = ceil_div(extents.b, lines);
    step = std::clamp(pixels / ceil_div(extents.b, bands),
                      std::min<long>(kTilePixels, extents.mid_a), extents.mid_a);
    step = ceil_div(extents.mid_a, ceil_div(extents.mid_a, step));
    const long bytes = 4 * Sums(p).size;
    // 16 MB of sums, or eight chunks if they take no more than 64 MB.
    const long most = std::max(2L, (64L << 20) / bytes);
    chunks = std::min({long{p.batch} * bands, most, std::clamp((16L << 20) / bytes, 8L, 64L)});
  }
};

namespace detail {

struct BackwardTask {
  const Pair &pair;
  const BackwardPlan &plan;
  const Wanted &wanted;
  Packed first, first_transposed, second_transposed;
  const float *x, *grad_y;
  float *grad_x;
};

// A thread's buffers, in floats.
struct BackwardMemory {
  long x, mid, slope, grad_mid, ring, grad_y, stage, rows, size;
  long ring_columns, stage_columns;  // along a

  BackwardMemory(const Pair &p, const BackwardPlan &plan, const Wanted &wanted) {
    const Extents extents(p);
    const Axis &one = first_axis(p), &two = second_axis(p);
    const long lanes = whole_vectors(p.channels[1]);
    const long lines = ceil_div(extents.b, plan.bands);
    const long columns_x = std::min(extents.x_a, (plan.step - 1) * one.stride + one.reach());
    const long lines_y = std::min(extents.y_b, (lines - 1 + two.reach() - 1) / two.stride + 1);
    const long mid_floats = plan.step * lines * lanes;
    const bool sloped = wanted.mid_gradient && p.activation != Activation::none;
    ring_columns = plan.step + (one.reach() - 1) / one.stride + 2;
    stage_columns = std::min(extents.x_a, plan.step * one.stride);
    long end = 0;
    const auto place = [&end](bool needed, long floats) {
      const long begin = end;
      end += needed ? align_floats(floats) : 0;
      return begin;
    };
    x = place(!p.channels_last, columns_x * lines * p.channels[0]);
    grad_y = place(!p.channels_last, plan.step * lines_y * p.channels[2]);
    mid = place(wanted.mid, mid_floats);
    slope = place(sloped, mid_floats);
    grad_mid = place(wanted.mid_gradient, mid_floats);
    ring = place(wanted.x, ring_columns * lines * lanes);
    stage = place(wanted.x && !p.channels_last, stage_columns * lines * kPanel);
    rows = place(true, WeightGradient::kRowStep * std::max(columns_x * lines, plan.step * lines_y));
    size = end;
  }
};

// A slope of zero stops infinities too.
inline void scale_row(float *row, const float *slope, long n) {
  const Vec<float> zero = {};
  for (long i = 0; i < n; i += kFloats) {
    const Vec<float> s = load(slope + i);
    store<float>(row + i, s == zero ? zero : load(row + i) * s);
  }
}

inline View view_of(const Pair &p, const float *image, const Image &layout, Range a, Range b,
                    long channels, float *buffer) {
  if (p.channels_last) {
    return {image, {layout.a, layout.b}};
  }
  const Buffer target = Buffer::of(p, a.size(), b.size(), channels);
  to_channels_last(window(p, a.size(), b.size(), channels),
                   image + a.begin * layout.a + b.begin * layout.b, layout.channel, layout.row,
                   buffer, target.row, target.column);
  return {buffer - a.begin * target.a - b.begin * target.b, {target.a, target.b}};
}

// One band of one image on its march.
class BackwardBand {
 public:
  BackwardBand(const BackwardTask &task, long image, long band, float *memory, float *sums,
               bool first)
      : task_(task),
        p_(task.pair),
        wanted_(task.wanted),
        extents_(p_),
        one_(first_axis(p_)),
        two_(second_axis(p_)),
        x_image_(Image::of(p_, p_.channels[0], p_.height, p_.width)),
        y_image_(Image::of(p_, p_.channels[2], p_.out_height, p_.out_width)),
        places_(p_, task.plan, wanted_),
        offsets_(p_),
        lines_(part(extents_.b, task.plan.bands, band)),
        y_lines_{clamp_y(ceil_div(lines_.begin + two_.pad - two_.reach() + 1, two_.stride)),
                 clamp_y(floor_div(lines_.end - 1 + two_.pad, two_.stride) + 1)},
        image_(image),
        memory_(memory),
        sums_(sums),
        first_(first) {}

  void run() {
    for (long begin = 0; begin < extents_.mid_a; begin += task_.plan.step) {
      step({begin, std::min(extents_.mid_a, begin + task_.plan.step)});
      first_ = false;
    }
  }

 private:
  long clamp_y(long line) const { return std::clamp(line, 0L, extents_.y_b); }

  // Of the step's rectangle.
  Panels panels(long place, Range columns) const {
    const long lines = lines_.size();
    return {memory_ + place,
            p_.channels[1],
            columns.size() * lines,
            lines,
            1,
            columns.begin * lines + lines_.begin};
  }

  void step(Range columns) {
    const Range inputs{std::clamp<long>(columns.begin * one_.stride - one_.pad, 0, extents_.x_a),
                       std::clamp<long>((columns.end - 1) * one_.stride - one_.pad + one_.reach(),
                                        0, extents_.x_a)};
    const long mid_floats = columns.size() * lines_.size() * whole_vectors(p_.channels[1]);
    const Panels mid = panels(places_.mid, columns), grad_mid = panels(places_.grad_mid, columns);
    View x{task_.x, {}}, grad_y{task_.grad_y, {}};  // where all is padding
    if (inputs.size() > 0 && (wanted_.mid || wanted_.w1)) {
      x = view_of(p_, task_.x + image_ * x_image_.batch, x_image_, inputs, lines_, p_.channels[0],
                  memory_ + places_.x);
    }
    if (y_lines_.size() > 0 && (wanted_.mid_gradient || wanted_.w2)) {
      grad_y = view_of(p_, task_.grad_y + image_ * y_image_.batch, y_image_, columns, y_lines_,
                       p_.channels[2], memory_ + places_.grad_y);
    }
    if (wanted_.mid) {
      const Direct reach{one_, extents_.x_a};
      for (long panel = 0; panel < mid.count(); ++panel) {
        convolve_panel(reach, task_.first, panel, {}, x.data, x.steps, mid.at(panel),
                       mid.steps(panel), columns, lines_);
      }
      if (p_.activation != Activation::none) {
        if (wanted_.mid_gradient) {
          activate_row_with_slope(p_.activation, mid.data, memory_ + places_.slope, mid_floats);
        } else {
          activate_row(p_.activation, mid.data, mid_floats);
        }
      }
    }
    if (wanted_.mid_gradient) {
      const Transposed reach(two_, extents_.y_b);
      for (long panel = 0; panel < grad_mid.count(); ++panel) {
        convolve_panel(reach, task_.second_transposed, panel, {}, grad_y.data,
                       grad_y.turned().steps, grad_mid.at(panel), grad_mid.turned().steps(panel),
                       lines_, columns);
      }
      if (p_.activation != Activation::none) {
        scale_row(grad_mid.data, memory_ + places_.slope, mid_floats);
      }
    }
    if (wanted_.x) {
      add_grad_x(columns, grad_mid);
    }
    if (wanted_.w1) {
      if (inputs.size() > 0) {
        WeightGradient{one_,
                       true,
                       inputs,
                       columns,
                       lines_,
                       x,
                       grad_mid,
                       sums_ + offsets_.w1,
                       p_.channels[0],
                       !first_,
                       memory_ + places_.rows}
            .run();
      } else if (first_) {
        clear(offsets_.w1, offsets_.w2);
      }
    }
    if (wanted_.w2) {
      if (y_lines_.size() > 0) {
        WeightGradient{two_,
                       false,
                       lines_,
                       y_lines_,
                       columns,
                       grad_y.turned(),
                       mid.turned(),
                       sums_ + offsets_.w2,
                       p_.channels[2],
                       !first_,
                       memory_ + places_.rows}
            .run();
      } else if (first_) {
        clear(offsets_.w2, offsets_.b1);
      }
    }
    if (first_) {
      clear(offsets_.b1, offsets_.size);
    }
    if (wanted_.b1) {
      for (long panel = 0; panel < grad_mid.count(); ++panel) {
        const long width = grad_mid.width(panel);
        add_pixels(grad_mid.data + panel * kPanel * grad_mid.pixels, grad_mid.pixels, width, width,
                   sums_ + offsets_.b1 + panel * kPanel);
      }
    }
  }

  void clear(long begin, long end) {
    std::memset(sums_ + begin, 0, static_cast<std::size_t>(end - begin) * sizeof(float));
  }

  // Keeps the columns of the intermediate's gradient that grad_x still needs, pixels by pixels, and
  // makes the columns of grad_x that read no later ones.
  void add_grad_x(Range columns, const Panels &grad_mid) {
    const long lanes = whole_vectors(p_.channels[1]), column = lines_.size() * lanes;
    float *ring = memory_ + places_.ring;
    const long need = done_ == extents_.x_a
                          ? columns.begin
                          : std::clamp(ceil_div(done_ + one_.pad - one_.reach() + 1, one_.stride),
                                       0L, columns.begin);
    std::memmove(ring, ring + (need - top_) * column,
                 static_cast<std::size_t>((columns.begin - need) * column) * sizeof(float));
    top_ = need;
    for (long panel = 0; panel < grad_mid.count(); ++panel) {
      const long width = grad_mid.width(panel);
      const float *from = grad_mid.data + panel * kPanel * grad_mid.pixels;
      float *to = ring + (columns.begin - top_) * column + panel * kPanel;
      for (long i = 0; i < grad_mid.pixels; ++i) {
        for (long lane = 0; lane < width; lane += kFloats) {
          store(to + i * lanes + lane, load(from + i * width + lane));
        }
      }
    }
    const long end = columns.end == extents_.mid_a
                         ? extents_.x_a
                         : std::clamp(columns.end * one_.stride - one_.pad, done_, extents_.x_a);
    while (done_ < end) {
      const Range ready{done_, std::min(end, done_ + places_.stage_columns)};
      write_grad_x(ready, ring - top_ * column - lines_.begin * lanes, {column, lanes});
      done_ = ready.end;
    }
  }

  void write_grad_x(Range ready, const float *grad_mid, Steps steps) {
    const Transposed reach(one_, extents_.mid_a);
    float *target = task_.grad_x + image_ * x_image_.batch;
    float *staged = memory_ + places_.stage;
    const Buffer stage = Buffer::of(p_, ready.size(), lines_.size(), kPanel);
    for (long panel = 0; panel < task_.first_transposed.panels(); ++panel) {
      if (p_.channels_last) {
        convolve_panel(reach, task_.first_transposed, panel, {}, grad_mid, steps,
                       target + panel * kPanel, {x_image_.a, x_image_.b}, ready, lines_);
        continue;
      }
      convolve_panel(reach, task_.first_transposed, panel, {}, grad_mid, steps,
                     staged - ready.begin * stage.a - lines_.begin * stage.b, {stage.a, stage.b},
                     ready, lines_);
      const long count = std::min<long>(kPanel, p_.channels[0] - panel * kPanel);
      to_channels_first(window(p_, ready.size(), lines_.size(), count), staged, stage.row,
                        stage.column,
                        target + panel * kPanel * x_image_.channel + ready.begin * x_image_.a +
                            lines_.begin * x_image_.b,
                        x_image_.channel, x_image_.row);
    }
  }

  const BackwardTask &task_;
  const Pair &p_;
  const Wanted &wanted_;
  const Extents extents_;
  const Axis &one_, &two_;
  const Image x_image_, y_image_;
  const BackwardMemory places_;
  const Sums offsets_;
  const Range lines_, y_lines_;
  const long image_;
  float *memory_, *sums_;
  bool first_;     // the sums hold nothing yet
  long done_ = 0;  // columns of grad_x
  long top_ = 0;   // the ring's first column
};

}  // namespace detail

inline void dense_backward(const Pair &p, const float *x, const float *w1, const float *w2,
                           const float *b1, const float *grad_y, const Gradients &gradients) {
  const Axis &one = first_axis(p), &two = second_axis(p);
  const long c0 = p.channels[0], c1 = p.channels[1], c2 = p.channels[2];
  const Wanted wanted(p, gradients);
  const Extents extents(p);
  const auto fill_zero = [](void *gradient, long size) {
    if (gradient != nullptr) {
      std::memset(gradient, 0, static_cast<std::size_t>(size) * sizeof(float));
    }
  };
  if (p.batch == 0 || extents.mid_a == 0 || extents.y_b == 0) {
    fill_zero(gradients.x, p.batch * c0 * p.height * p.width);
    fill_zero(gradients.w1, c1 * c0 * one.kernel);
    fill_zero(gradients.w2, c2 * c1 * two.kernel);
    fill_zero(gradients.b1, c1);
    fill_zero(gradients.b2, c2);
    return;
  }
  const BackwardPlan plan(p);
  const Sums sums(p);
  Packing first = Packing::forward(w1, c1, c0, one.kernel, b1);
  Packing first_transposed = Packing::transposed(w1, c1, c0, one.kernel);
  Packing second_transposed = Packing::transposed(w2, c2, c1, two.kernel);
  const long packed_size = first.size() + first_transposed.size() + second_transposed.size();
  const detail::BackwardMemory memory(p, plan, wanted);
  const Team team(packed_size + plan.chunks * sums.size, memory.size);
  first.packed = team.shared();
  first_transposed.packed = first.packed + first.size();
  second_transposed.packed = first_transposed.packed + first_transposed.size();
  float *partial = team.shared() + packed_size;
  const detail::BackwardTask task{p,
                                  plan,
                                  wanted,
                                  first.result(),
                                  first_transposed.result(),
                                  second_transposed.result(),
                                  x,
                                  grad_y,
                                  static_cast<float *>(gradients.x)};
  const detail::Reduction reduction1{partial + sums.w1,
                                     plan.chunks,
                                     sums.size,
                                     c0,
                                     one.kernel,
                                     c1,
                                     static_cast<float *>(gradients.w1),
                                     one.kernel,
                                     c0 * one.kernel};
  const detail::Reduction reduction2{partial + sums.w2,
                                     plan.chunks,
                                     sums.size,
                                     c2,
                                     two.kernel,
                                     c1,
                                     static_cast<float *>(gradients.w2),
                                     c1 * two.kernel,
                                     two.kernel};
  const long panels[] = {wanted.mid ? first.panels() : 0, wanted.x ? first_transposed.panels() : 0,
                         wanted.mid_gradient ? second_transposed.panels() : 0};
  team.run(false, [&](Team::Member member) {
    member.each(panels[0] + panels[1] + panels[2], [&](long i) {
      if (i < panels[0]) {
        first.pack(i);
      } else if (i < panels[0] + panels[1]) {
        first_transposed.pack(i - panels[0]);
      } else {
        second_transposed.pack(i - panels[0] - panels[1]);
      }
    });
    member.each(plan.chunks, [&](long chunk) {
      float *own = partial + chunk * sums.size;
      const Range bands = part(p.batch * plan.bands, plan.chunks, chunk);
      for (long i = bands.begin; i < bands.end; ++i) {
        const long image = i / plan.bands, band = i % plan.bands;
        detail::BackwardBand(task, image, band, member.memory, own, i == bands.begin).run();
        if (wanted.b2) {
          detail::sum_grad_y(p, grad_y, image, part(extents.y_b, plan.bands, band), own + sums.b2);
        }
      }
    });
    const long tasks1 = wanted.w1 ? reduction1.tasks() : 0;
    const long tasks2 = wanted.w2 ? reduction2.tasks() : 0;
    member.each(tasks1 + tasks2 + 1, [&](long i) {
      if (i < tasks1) {
        reduction1.run(i);
      } else if (i < tasks1 + tasks2) {
        reduction2.run(i - tasks1);
      } else {
        if (wanted.b1) {
          detail::reduce_bias(partial + sums.b1, plan.chunks, sums.size, c1,
                              static_cast<float *>(gradients.b1));
        }
        if (wanted.b2) {
          detail::reduce_bias(partial + sums.b2, plan.chunks, sums.size, c2,
                              static_cast<float *>(gradients.b2));
        }
      }
    });
  });
}

}  // namespace pyphase::conv::PYPHASE_ISA::dense
