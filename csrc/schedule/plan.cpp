#include "plan.h"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <thread>
#include <utility>

namespace pyphase {
namespace {

// Steps [i, i + count) of a phase of n steps. The index inside a block is an int, which vectorises;
// the block's base keeps it exact for long phases.
constexpr int kBlock = 2048;
constexpr std::int64_t kMaxThreads = 8;

template <typename Form>
PYPHASE_INLINE void fill(Form form, double i, double n, int count, double *out) {
  const double inverse = 1.0 / n;
  for (int j = 0; j < count; ++j) {
    const double step = i + static_cast<double>(j);
    out[j] = form(fraction(step, n, inverse), fraction(n - step, n, inverse));
  }
}

struct LinearForm {
  Curve curve;
  PYPHASE_INLINE double operator()(double f, double g) const { return linear(curve, f, g); }
};

struct CosineForm {
  Curve curve;
  PYPHASE_INLINE double operator()(double f, double g) const { return cosine(curve, f, g); }
};

// The loop once more for wider vectors, taken where the processor has them. It gives the same bits:
// without contraction, each lane does the operations of the scalar code.
#if defined(__x86_64__) && defined(__GNUC__)
template <typename Form>
__attribute__((target("avx2,fma"))) void fill_wide(Form form, double i, double n, int count,
                                                   double *out) {
  fill(form, i, n, count, out);
}

bool has_wide() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
template <typename Form>
void fill_wide(Form form, double i, double n, int count, double *out) {
  fill(form, i, n, count, out);
}

bool has_wide() { return false; }
#endif

template <typename Form>
void fill_vector(Form form, double i, double n, int count, double *out) {
  static const bool wide = has_wide();
  wide ? fill_wide(form, i, n, count, out) : fill(form, i, n, count, out);
}

void fill_block(const Curve &c, double i, double n, int count, double *out) {
  if (!c.is_whole()) {
    return fill([c](double f, double g) { return at(c, f, g); }, i, n, count, out);
  }
  switch (c.shape) {
    case Shape::kLinear:
      return fill_vector(LinearForm{c}, i, n, count, out);
    case Shape::kCosine:
      return fill_vector(CosineForm{c}, i, n, count, out);
    default:
      with_form(c, [=](auto form) { fill(form, i, n, count, out); });
  }
}

}  // namespace

std::vector<std::int64_t> phase_ends(const std::vector<double> &lengths) {
  std::vector<std::int64_t> ends;
  ends.reserve(lengths.size());
  double sum = 0.0;
  double lost = 0.0;  // Neumaier's compensation: what the additions so far have rounded away
  for (const double length : lengths) {
    const double next = sum + length;
    lost += std::abs(sum) >= std::abs(length) ? (sum - next) + length : (length - next) + sum;
    sum = next;
    const double boundary = sum + lost;
    const double nearest = std::round(boundary);
    const bool is_whole = std::abs(boundary - nearest) <= 1e-6 + 1e-15 * boundary;
    ends.push_back(static_cast<std::int64_t>(is_whole ? nearest : std::ceil(boundary)));
  }
  return ends;
}

Plan::Plan(std::vector<std::int64_t> ends, std::int64_t num_groups, std::vector<Track> tracks)
    : ends_(std::move(ends)), num_groups_(num_groups), tracks_(std::move(tracks)) {}

std::size_t Plan::phase_at(std::int64_t step) const {
  const auto after = std::upper_bound(ends_.begin(), ends_.end(), step);
  const auto phase = static_cast<std::size_t>(after - ends_.begin());
  return std::min(phase, ends_.size() - 1);
}

Fractions Plan::fractions(std::size_t phase, std::int64_t step) const {
  const std::int64_t steps = end(phase) - begin(phase);
  const auto i = static_cast<double>(std::min(step - begin(phase), steps));
  const auto n = static_cast<double>(steps);
  return {fraction(i, n, 1.0 / n), fraction(n - i, n, 1.0 / n)};
}

void Plan::fill_table(const Track &track, std::int64_t first, std::int64_t last,
                      double *out) const {
  // The cost of a large table is mostly the operating system's handing out of fresh pages, which
  // runs in parallel; a share of under 2^18 rows is not worth a thread.
  const std::int64_t wanted = std::min<std::int64_t>((last - first) >> 18, kMaxThreads);
  const std::int64_t cores = std::thread::hardware_concurrency();
  const std::int64_t shares = std::clamp<std::int64_t>(std::min(wanted, cores), 1, kMaxThreads);
  std::vector<std::thread> threads;
  for (std::int64_t share = 1; share < shares; ++share) {
    const std::int64_t begin = first + (last - first) * share / shares;
    const std::int64_t end = first + (last - first) * (share + 1) / shares;
    const auto work = [=, this, &track] {
      fill_rows(track, begin, end, out + (begin - first) * num_groups_);
    };
    try {
      threads.emplace_back(work);
    } catch (const std::system_error &) {  // no thread to be had
      work();
    }
  }
  fill_rows(track, first, first + (last - first) / shares, out);
  for (std::thread &thread : threads) {
    thread.join();
  }
}

void Plan::fill_rows(const Track &track, std::int64_t first, std::int64_t last, double *out) const {
  double block[kBlock];
  std::int64_t step = first;
  for (std::size_t phase = phase_at(step); step < std::min(last, total_steps()); ++phase) {
    const std::int64_t stop = std::min(end(phase), last);
    const auto n = static_cast<double>(end(phase) - begin(phase));
    while (step < stop) {
      const int count = static_cast<int>(std::min<std::int64_t>(kBlock, stop - step));
      const auto i = static_cast<double>(step - begin(phase));
      double *rows = out + (step - first) * num_groups_;
      for (std::int64_t group = 0; group < num_groups_; ++group) {
        const Curve *curve = track.curve(phase, group);
        double *column = num_groups_ == 1 ? rows : block;
        if (curve == nullptr) {
          std::fill_n(column, count, kUnset);
        } else {
          fill_block(*curve, i, n, count, column);
        }
        for (int j = 0; j < count && column == block; ++j) {
          rows[j * num_groups_ + group] = block[j];
        }
      }
      step += count;
    }
  }
  std::vector<std::int64_t> past(static_cast<std::size_t>(last - step), total_steps());
  gather(track, past.data(), last - step, out + (step - first) * num_groups_);
}

void Plan::gather(const Track &track, const std::int64_t *steps, std::int64_t count,
                  double *out) const {
  for (std::int64_t j = 0; j < count; ++j) {
    const std::size_t phase = phase_at(steps[j]);
    const Fractions at_step = fractions(phase, steps[j]);
    for (std::int64_t group = 0; group < num_groups_; ++group) {
      const Curve *curve = track.curve(phase, group);
      out[j * num_groups_ + group] = curve == nullptr ? kUnset : at(*curve, at_step.f, at_step.g);
    }
  }
}

}  // namespace pyphase
