// A compiled plan: phases as integer spans of steps, tracks as curves over these spans.
//
// Memory grows with the number of phases, never with the number of steps. Any step can be asked
// for, in any order, in time logarithmic in the number of phases.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "curve.h"

namespace pyphase {

// Turns lengths in (fractional) steps into the integer step at which each phase ends: the
// cumulative length, rounded up. A boundary closer to an integer than floating-point noise
// (1e-6 of a step, 1e-15 of the boundary) is that integer.
std::vector<std::int64_t> phase_ends(const std::vector<double> &lengths);

// The curves of one scheduled value. Phase p owns curves[first[p]] .. curves[first[p] + width[p]]:
// none where the phase leaves the value alone, one for all parameter groups, or one a group.
struct Track {
  std::vector<Curve> curves;
  std::vector<std::int64_t> first;
  std::vector<std::int64_t> width;
  std::vector<std::vector<double>> knots;  // owns what the Table curves point into

  // The curve of one group, or null where the phase leaves the value alone.
  const Curve *curve(std::size_t phase, std::int64_t group) const {
    const std::int64_t index = first[phase] + (width[phase] > 1 ? group : 0);
    return width[phase] == 0 ? nullptr : &curves[static_cast<std::size_t>(index)];
  }
};

// Where a step stands in its phase: the fraction f behind it and g = 1 - f still ahead.
struct Fractions {
  double f;
  double g;
};

constexpr double kUnset = std::numeric_limits<double>::quiet_NaN();

class Plan {
 public:
  Plan(std::vector<std::int64_t> ends, std::int64_t num_groups, std::vector<Track> tracks);

  std::int64_t total_steps() const { return ends_.back(); }
  std::int64_t num_groups() const { return num_groups_; }
  std::size_t num_phases() const { return ends_.size(); }
  const std::vector<Track> &tracks() const { return tracks_; }
  std::int64_t begin(std::size_t phase) const { return phase == 0 ? 0 : ends_[phase - 1]; }
  std::int64_t end(std::size_t phase) const { return ends_[phase]; }

  // The phase that holds `step`; the last one for every step past the end.
  std::size_t phase_at(std::int64_t step) const;

  // Fractions of a step in `phase`, which must be phase_at(step): looked up once for all tracks.
  // Past the end f stays 1, so that values hold at the last curve's end.
  Fractions fractions(std::size_t phase, std::int64_t step) const;

  // Writes steps [first, last) x groups of a track to `out`, row by row; kUnset where not set.
  void fill_table(const Track &track, std::int64_t first, std::int64_t last, double *out) const;

  // Writes the values at any steps, rows of `num_groups` each, to `out`.
  void gather(const Track &track, const std::int64_t *steps, std::int64_t count, double *out) const;

 private:
  void fill_rows(const Track &track, std::int64_t first, std::int64_t last, double *out) const;

  std::vector<std::int64_t> ends_;
  std::int64_t num_groups_;
  std::vector<Track> tracks_;
};

}  // namespace pyphase
