// The float32 arithmetic that finds most bins, tried on every float32 there is where
// TRACELET_EVERY_FLOAT is set (make test-all: half a minute), else on one block in a few.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "histogram_support.h"
#include "test_support.h"
#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/kernel.h"

namespace tracelet {
namespace {

using testing::all_edges;
using testing::kAddressSanitizer;
using testing::kEmulated;
using testing::kThreadSanitizer;

#if defined(__OPTIMIZE__)
constexpr bool kIsFast = !kAddressSanitizer && !kThreadSanitizer && !kEmulated;
#else
constexpr bool kIsFast = false;
#endif
const bool kIsEveryFloatTried = kIsFast && std::getenv("TRACELET_EVERY_FLOAT") != nullptr;
constexpr std::uint32_t kFloatCount = 0x80000000;  // of one sign
constexpr std::uint32_t kSign = 0x80000000;

// The cells that stand for a bin, or for what lies below or above all of them.
struct CellRange {
  std::int32_t first;
  std::int32_t last;

  bool operator==(const CellRange&) const = default;
};

// Which cells the floats belong to, asked for further and further from zero.
class CellRanges {
 public:
  explicit CellRanges(const BinEdges& edges) : edges_(edges.edges()), of_bin_(edges.bin_count()) {
    below_ = above_ = {edges.guess().first_cell, edges.guess().last_cell};
    const auto put = [&](std::size_t bin, CellRange range) {
      of_bin_[bin] = range;
      below_.last = std::min(below_.last, range.first - 1);
      above_.first = std::max(above_.first, range.last + 1);
    };
    for (const auto& run : edges.cell_runs()) {
      for (std::size_t bin = run.first_bin; bin < run.end_bin; ++bin) {
        const auto cell = run.first_cell + static_cast<std::int32_t>(bin - run.first_bin);
        put(bin, {cell, cell});
      }
    }
  }

  // `bin` is where the last answer was found; 0 to begin with.
  CellRange of(float value, std::ptrdiff_t& bin) const {
    const auto x = static_cast<double>(value);
    while (bin < std::ssize(of_bin_) - 1 && x >= edge(bin + 1)) ++bin;
    while (bin >= 0 && x < edge(bin)) --bin;
    if (x > edges_.back()) return above_;
    return bin < 0 ? below_ : of_bin_[static_cast<std::size_t>(bin)];
  }
  CellRange below() const { return below_; }
  CellRange above() const { return above_; }

 private:
  double edge(std::ptrdiff_t i) const { return edges_[static_cast<std::size_t>(i)]; }

  std::span<const double> edges_;
  std::vector<CellRange> of_bin_;
  CellRange below_;
  CellRange above_;
};

bool is_in(std::int32_t cell, CellRange range) {
  return (range.first <= cell) & (cell <= range.last);
}
bool is_ambiguous(std::int32_t cell) { return (cell == 0) | (cell == -1); }

// What came of guesses for floats of one sign.
struct Tried {
  std::uint64_t count = 0;
  std::uint64_t ambiguous = 0;
  std::uint64_t wrong = 0;
  std::uint32_t a_wrong_one = 0;  // its bits
  std::uint64_t wrong_flags = 0;
};

// One block in so many.
Tried try_floats(const KernelSet& kernels, const BinEdges& edges, std::uint32_t sign,
                 std::uint32_t every) {
  constexpr std::uint32_t kBlock = kBlockElements;
  static_assert(kFloatCount % kBlock == 0);
  const CellRanges ranges(edges);
  Tried tried;
  std::ptrdiff_t bin = 0;
  alignas(64) float values[kBlock];
  alignas(64) std::int32_t cells[kBlock];
  for (std::uint64_t begin = 0; begin < kFloatCount; begin += std::uint64_t{every} * kBlock) {
    const std::uint32_t first = static_cast<std::uint32_t>(begin) | sign;
    for (std::uint32_t i = 0; i < kBlock; ++i) values[i] = std::bit_cast<float>(first + i);
    const bool is_any = kernels.float32.guess(values, kBlock, edges.guess(), cells);

    std::uint32_t ambiguous = 0;
    for (const std::int32_t cell : cells) ambiguous += is_ambiguous(cell) ? 1 : 0;
    tried.count += kBlock;
    tried.ambiguous += ambiguous;
    tried.wrong_flags += is_any == (ambiguous > 0) ? 0 : 1;

    // Most blocks lie in one bin.
    if (!std::isnan(values[kBlock - 1])) {
      const CellRange range = ranges.of(values[0], bin);
      std::ptrdiff_t last_bin = bin;
      if (ranges.of(values[kBlock - 1], last_bin) == range) {
        bool is_wrong = false;
        for (const std::int32_t cell : cells)
          is_wrong |= !(is_ambiguous(cell) | is_in(cell, range));
        if (!is_wrong) continue;
      }
    }
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      if (is_ambiguous(cells[i])) continue;
      const bool is_right = std::isnan(values[i])
                                ? is_in(cells[i], ranges.below()) || is_in(cells[i], ranges.above())
                                : is_in(cells[i], ranges.of(values[i], bin));
      if (is_right) continue;
      ++tried.wrong;
      tried.a_wrong_one = first + i;
    }
  }
  return tried;
}

// Both signs, a thread for each.
void check_floats(const KernelSet& kernels, const BinEdges& edges, std::uint32_t every,
                  double most_ambiguous) {
  INFO(std::string(kernels.name));
  Tried negative;
  std::thread other([&] { negative = try_floats(kernels, edges, kSign, every); });
  const Tried positive = try_floats(kernels, edges, 0, every);
  other.join();
  for (const Tried& tried : {positive, negative}) {
    CAPTURE(tried.a_wrong_one);
    CHECK(tried.wrong == 0);
    CHECK(tried.wrong_flags == 0);
    CHECK(static_cast<double>(tried.ambiguous) <=
          most_ambiguous * static_cast<double>(tried.count));
  }
}

// How far logarithmic guesses are from the true positions, as a share of the distance from which on
// they could be wrong. Of the floats as large as edges, the blocks of mantissas first, first +
// every …
double worst_share(const KernelSet& kernels, std::uint32_t first, std::uint32_t every) {
  const Guess& given = BinEdges::tensorflow().guess();
  const double one = std::ldexp(1.0, given.fraction_bits);
  const double half_width = (one - static_cast<double>(given.ambiguous_mask)) / 2;
  Guess guess = given;  // whose cells are the positions themselves
  guess.fraction_bits = 0;
  guess.ambiguous_mask = -1;

  const long double cells_per_octave = 1 / std::log2(1.1L);
  const double scale = static_cast<double>(cells_per_octave) * one;
  const double zero = static_cast<double>(-std::log2(1e-12L) * cells_per_octave) * one +
                      (BinEdges::tensorflow().cell_runs()[1].first_cell + 1) * one + half_width;
  double worst = 0;
  double logarithms[kBlockElements];
  alignas(64) float values[kBlockElements];
  alignas(64) std::int32_t positions[kBlockElements];
  for (std::uint64_t begin = first * kBlockElements; begin < 0x800000;
       begin += every * kBlockElements) {
    const auto mantissa = static_cast<std::uint32_t>(begin);
    for (std::uint32_t i = 0; i < kBlockElements; ++i) {
      const long double m = 1 + static_cast<long double>(mantissa + i) * 0x1p-23L;
      logarithms[i] = static_cast<double>(std::log2(m));
    }
    for (std::uint32_t exponent = 127 - 39; exponent <= 127 + 66; ++exponent) {
      for (std::uint32_t i = 0; i < kBlockElements; ++i) {
        values[i] = std::bit_cast<float>(exponent << 23 | (mantissa + i));
      }
      kernels.float32.guess(values, kBlockElements, guess, positions);
      const double whole = (static_cast<double>(exponent) - 127) * scale + zero;
      for (std::size_t i = 0; i < kBlockElements; ++i) {
        const double off = std::abs(positions[i] - (logarithms[i] * scale + whole));
        worst = off > worst ? off : worst;
      }
    }
  }
  return worst / half_width;
}

TEST_SUITE("histogram_guess") {
  TEST_CASE("TensorBoard's guess is right or ambiguous for every float32") {
    for (const KernelSet* kernels : available_kernels()) {
      check_floats(*kernels, BinEdges::tensorflow(),
                   kIsEveryFloatTried ? 1
                   : kIsFast          ? 29
                                      : 263,
                   kIsEveryFloatTried ? 0.001 : 0.01);
    }
  }

  TEST_CASE("TensorBoard's guess keeps a margin to being wrong") {
    for (const KernelSet* kernels : available_kernels()) {
      INFO(std::string(kernels->name));
      const std::uint32_t every = kIsEveryFloatTried ? 2 : kIsFast ? 58 : 506;
      double odd = 0;
      std::thread other([&] { odd = worst_share(*kernels, 1, every); });
      const double even = worst_share(*kernels, 0, every);
      other.join();
      CHECK(std::max(even, odd) < 0.8);
    }
  }

  TEST_CASE("guesses for evenly spaced edges are right or ambiguous for floats of all sizes") {
    for (const auto& [name, edges] : all_edges()) {
      if (edges.guess().kind != Guess::Kind::kLinear) continue;
      CAPTURE(name);
      for (const KernelSet* kernels : available_kernels()) check_floats(*kernels, edges, 4999, 1);
    }
  }

  // What a block of all ambiguous guesses costs would hide in the tests, but not in use.
  TEST_CASE("evenly spaced edges have guesses that are seldom ambiguous") {
    std::vector<float> values(kBlockElements);
    std::vector<std::int32_t> cells(kBlockElements);
    const auto ambiguous_share = [&](const BinEdges& edges) {
      REQUIRE(edges.guess().kind == Guess::Kind::kLinear);
      const double first = edges.edges().front();
      const double last = edges.edges().back();
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double share = (static_cast<double>(i) + 0.31) / kBlockElements;
        values[i] = static_cast<float>(first + (last - first) * share);
      }
      best_kernels().float32.guess(values.data(), values.size(), edges.guess(), cells.data());
      return static_cast<double>(std::count_if(cells.begin(), cells.end(), is_ambiguous)) /
             kBlockElements;
    };
    CHECK(ambiguous_share(BinEdges::uniform(-1, 1, 64)) < 0.001);
    CHECK(ambiguous_share(BinEdges::uniform(-3, 5.5, 1000)) < 0.01);
    CHECK(ambiguous_share(BinEdges::uniform(-1e-3, 1e-3, 64)) < 0.001);
    CHECK(ambiguous_share(BinEdges::uniform(-1e29, 1e29, 64)) < 0.001);
    CHECK(ambiguous_share(BinEdges({0, 1.06, 1.95, 3.04, 4})) < 0.5);
  }
}

}  // namespace
}  // namespace tracelet
