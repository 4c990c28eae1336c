#include "tracelet/histogram/bin_edges.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

namespace tracelet {
namespace {

// Positions are below 2^28: their fixed-point form fits an int32, with room for sums.
constexpr int kPositionBits = 28;
constexpr double kFloatRounding = 0x1p-24;

constexpr double kSmallestEdge = 1e-12;
constexpr double kGrowth = 1.1;
constexpr double kLargestEdge = 1e20;
constexpr int kLogFractionBits = 17;
// Added to every logarithmic position: the cell of 1e-12. All that is smaller is in the cell
// before.
constexpr double kLogOffset = 2;
// Half the width of the ambiguous zone, in cells: 2^-11. The error of a guess is at most 55 % of
// it, 49 % with fused multiply-add; histogram_guess_test.cpp shows that it is below 80 %.
constexpr int kLogAmbiguousBits = kLogFractionBits - 11;

// log2(m) - (m - 1) for m in [1, 2], to 1.3e-5: a least-maximum fit.
constexpr double kLogCorrection[6] = {-1.80036403, 4.09171066,  -3.55079254,
                                      1.63114839,  -0.41656352, 0.04487358};

std::int32_t ambiguous_mask(int fraction_bits, int half_width_bits) {
  return ((std::int32_t{1} << fraction_bits) - 1) & ~((std::int32_t{2} << half_width_bits) - 1);
}

std::vector<double> tensorflow_edges() {
  std::vector<double> positive;
  for (double edge = kSmallestEdge; edge < kLargestEdge; edge *= kGrowth) positive.push_back(edge);
  std::vector<double> edges;
  for (std::size_t i = positive.size(); i-- > 0;) edges.push_back(-positive[i]);
  edges.push_back(0);
  edges.insert(edges.end(), positive.begin(), positive.end());
  return edges;
}

Guess logarithmic_guess() {
  constexpr double kOne = std::int32_t{1} << kLogFractionBits;
  constexpr double kHalfWidth = std::int32_t{1} << kLogAmbiguousBits;
  const double cells_per_octave = 1 / std::log2(kGrowth);
  Guess guess;
  guess.kind = Guess::Kind::kLogarithmic;
  guess.scale = static_cast<float>(cells_per_octave * kOne * 0x1p-23);
  for (int i = 0; i < 6; ++i) {
    guess.polynomial[i] = static_cast<float>(kLogCorrection[i] * cells_per_octave * kOne);
  }
  const double offset =
      kLogOffset * kOne - (127 + std::log2(kSmallestEdge)) * cells_per_octave * kOne + kHalfWidth;
  guess.polynomial[0] = static_cast<float>(kLogCorrection[0] * cells_per_octave * kOne + offset);
  guess.lowest = static_cast<float>((kLogOffset - 0.5) * kOne);
  guess.fraction_bits = kLogFractionBits;
  guess.ambiguous_mask = ambiguous_mask(kLogFractionBits, kLogAmbiguousBits);
  guess.last_cell =
      static_cast<std::int32_t>(kLogOffset + (129 - std::log2(kSmallestEdge)) * cells_per_octave) +
      1;
  guess.first_cell = ~guess.last_cell;
  return guess;
}

// The edges' largest distance from evenly spaced ones, in bins.
double unevenness(std::span<const double> edges) {
  const double first = edges.front();
  const double bins_per_unit = static_cast<double>(edges.size() - 1) / (edges.back() - first);
  double worst = 0;
  for (std::size_t i = 0; i < edges.size(); ++i) {
    worst = std::max(worst, std::abs((edges[i] - first) * bins_per_unit - static_cast<double>(i)));
  }
  return worst;
}

Guess linear_guess(std::span<const double> edges) {
  const double first = edges.front();
  const double last = edges.back();
  const auto bins = static_cast<double>(edges.size() - 1);
  const double bins_per_unit = bins / (last - first);
  const double largest = std::max(std::abs(first), std::abs(last));
  // Outside of this the scale, or a float32 of the range, would not be a normal number.
  if (!(largest < 1e30) || !(last - first > 1e-25) || bins > 0x1p20) return {};
  const int fraction_bits = kPositionBits - static_cast<int>(std::ceil(std::log2(bins + 3)));
  const double one = std::ldexp(1.0, fraction_bits);
  // Rounding of x, scale, their product, the offset, the sum, and the last to an integer.
  const double error_bins =
      unevenness(edges) + kFloatRounding * (4 * largest * bins_per_unit + 3 * (bins + 2)) + 2 / one;
  if (!(error_bins < 0.125)) return {};
  const int half_width_bits = std::max(0, static_cast<int>(std::ceil(std::log2(error_bins * one))));
  const double half_width = std::ldexp(1.0, half_width_bits);
  Guess guess;
  guess.kind = Guess::Kind::kLinear;
  guess.scale = static_cast<float>(bins_per_unit * one);
  // Cell i + 2 is bin i; 1 and bins + 2 are what lies outside.
  guess.offset = static_cast<float>((2 - first * bins_per_unit) * one + half_width);
  guess.lowest = static_cast<float>(1.5 * one);
  guess.highest = static_cast<float>((bins + 2.5) * one);
  guess.fraction_bits = fraction_bits;
  guess.ambiguous_mask = ambiguous_mask(fraction_bits, half_width_bits);
  guess.first_cell = 1;
  guess.last_cell = static_cast<std::int32_t>(bins) + 2;
  return guess;
}

void check(std::span<const double> edges) {
  if (edges.size() < 2) throw std::invalid_argument("bins: at least two edges are needed");
  for (std::size_t i = 0; i < edges.size(); ++i) {
    if (std::isnan(edges[i]) || (i > 0 && edges[i] < edges[i - 1])) {
      throw std::invalid_argument("bins: edges must rise, and edge " + std::to_string(i) +
                                  " does not");
    }
  }
}

}  // namespace

const BinEdges& BinEdges::tensorflow() {
  static const BinEdges edges(Tensorflow{});
  return edges;
}

BinEdges::BinEdges(Tensorflow) : edges_(tensorflow_edges()), guess_(logarithmic_guess()) {
  // Bin `zero` begins at 0; its cell is 1, that of its neighbour to the left ~1.
  const std::size_t zero = edges_.size() / 2;
  cell_runs_[0] = {0, zero, -static_cast<std::int32_t>(zero) - 1};
  cell_runs_[1] = {zero, bin_count(), 1};
  cell_run_count_ = 2;
}

BinEdges::BinEdges(std::vector<double> edges) : edges_(std::move(edges)) {
  check(edges_);
  guess_ = linear_guess(edges_);
  if (guess_.kind == Guess::Kind::kNone) return;
  cell_runs_[0] = {0, bin_count(), 2};
  cell_run_count_ = 1;
}

BinEdges BinEdges::uniform(double first, double last, std::size_t bin_count) {
  if (bin_count == 0) throw std::invalid_argument("bins: there must be at least one");
  // More than any memory holds; bin_count + 1 may be 0.
  if (bin_count >= PTRDIFF_MAX / sizeof(double)) throw std::invalid_argument("bins: too many");
  if (!std::isfinite(first) || !std::isfinite(last) || first > last) {
    throw std::invalid_argument("range: must be two finite numbers, the larger one last");
  }
  if (first == last) {
    first -= 0.5;
    last += 0.5;
  }
  const auto bins = static_cast<double>(bin_count);
  const double step = (last - first) / bins;
  std::vector<double> edges(bin_count + 1);
  for (std::size_t i = 0; i < edges.size(); ++i) {
    const auto number = static_cast<double>(i);
    edges[i] = (step == 0 ? number / bins * (last - first) : number * step) + first;
  }
  edges.back() = last;
  for (std::size_t i = 1; i < edges.size(); ++i) {
    if (!(edges[i] > edges[i - 1])) {
      throw std::invalid_argument("bins: too many for the range, which has fewer numbers");
    }
  }
  return BinEdges(std::move(edges));
}

std::size_t BinEdges::find(double x) const {
  if (!(x >= edges_.front() && x <= edges_.back())) return kOutside;
  // The last edge that is not above x, without branches to mispredict.
  const double* base = edges_.data();
  std::size_t count = edges_.size();
  while (count > 1) {
    const std::size_t half = count / 2;
    base = base[half] <= x ? base + half : base;
    count -= half;
  }
  return std::min(static_cast<std::size_t>(base - edges_.data()), bin_count() - 1);
}

}  // namespace tracelet
