// The bins of a histogram: edges, the exact search in them, and the guess that mostly saves it.
//
// Bin i holds edges[i] <= x < edges[i + 1]; the last bin holds its right edge as well. This is
// numpy.histogram's rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tracelet {

// Guesses a position by float32 arithmetic, as a fixed-point number of cells; the cell is its whole
// part. Where the fraction is so near to 0 or 1 that rounding may have moved it over an edge, the
// guess is ambiguous and the exact search decides. What rounding can do is bounded when the guess
// is made.
//
//   kLinear       position = x * scale + offset, for edges that are evenly spaced
//   kLogarithmic  the same of log2|x|, for TensorBoard's edges: the bits of a float32 are its
//                 exponent and mantissa, and taken as an integer a logarithm that is off by
//                 log2(m) - (m - 1), for which a polynomial of degree 5 in m stands
//
// A negative x of a logarithmic guess is in cell ~cell(-x). Cells -1 and 0 mean ambiguous.
struct Guess {
  enum class Kind : std::uint8_t { kNone, kLinear, kLogarithmic };

  Kind kind = Kind::kNone;
  float scale = 0;
  float offset = 0;                 // of kLinear
  float polynomial[6] = {};         // of kLogarithmic, lowest power first, the offset in it
  float lowest = 0;                 // the position is not below this
  float highest = 0;                // kLinear: nor above this
  std::int32_t fraction_bits = 0;   //
  std::int32_t ambiguous_mask = 0;  // no bit of these set in the position: ambiguous
  std::int32_t first_cell = 0;      // cells that can occur, ambiguous ones apart
  std::int32_t last_cell = 0;       //
};

// Bins from `begin` on, before `end`.
struct BinRange {
  std::size_t begin = 0;
  std::size_t end = 0;
};
inline constexpr BinRange kAllBins{0, SIZE_MAX};

class BinEdges {
 public:
  // TensorBoard's default: 0 and ±1e-12 * 1.1^k below 1e20, by repeated multiplication.
  // Source: torch/utils/tensorboard/writer.py, SummaryWriter.default_bins.
  static const BinEdges& tensorflow();
  // As numpy.histogram_bin_edges with that many bins: numpy.linspace in float64. Where first and
  // last are equal they are moved apart by 0.5 each, as there. Throws std::invalid_argument for no
  // bins, a range that is not finite or falls, and more bins than there are numbers in the range.
  static BinEdges uniform(double first, double last, std::size_t bin_count);
  // Throws std::invalid_argument for less than two edges, NaN, or edges that fall.
  explicit BinEdges(std::vector<double> edges);

  std::span<const double> edges() const { return edges_; }
  std::size_t bin_count() const { return edges_.size() - 1; }
  const Guess& guess() const { return guess_; }
  bool is_tensorflow() const { return this == &tensorflow(); }

  // The bin of x, by comparison; kOutside for NaN and for what lies outside.
  static constexpr std::size_t kOutside = SIZE_MAX;
  std::size_t find(double x) const;

  // Which bin a cell stands for: cell first_cell + i is bin first_bin + i.
  struct CellRun {
    std::size_t first_bin;
    std::size_t end_bin;
    std::int32_t first_cell;
  };
  std::span<const CellRun> cell_runs() const { return {cell_runs_, cell_run_count_}; }

 private:
  struct Tensorflow {};
  explicit BinEdges(Tensorflow);

  std::vector<double> edges_;
  Guess guess_;
  CellRun cell_runs_[2] = {};
  std::size_t cell_run_count_ = 0;
};

}  // namespace tracelet
