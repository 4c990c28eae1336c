#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "histogram_support.h"
#include "test_support.h"
#include "tracelet/histogram/kernel.h"

namespace tracelet {
namespace {

using testing::all_edges;
using testing::bin_of;
using testing::fresh_seed;
using testing::hard_values;
using testing::kElementTypes;
using testing::kInfinity;
using testing::kNan;
using testing::kOutside;
using testing::kSizes;
using testing::Packed;
using testing::value_of;

constexpr std::int32_t kUntouched = 0x12345678;

bool is_ambiguous(std::int32_t cell) { return cell == 0 || cell == -1; }

template <typename Float>
const Kernel<Float>& kernel_for(const KernelSet& kernels) {
  if constexpr (std::is_same_v<Float, float>) return kernels.float32;
  if constexpr (std::is_same_v<Float, double>) return kernels.float64;
}

template <typename Float>
std::vector<Float> hard_floats(std::span<const double> edges, std::mt19937_64& random) {
  const auto type = sizeof(Float) == 4 ? ElementType::kFloat32 : ElementType::kFloat64;
  std::vector<Float> values;
  for (const std::uint64_t bits : hard_values(type, edges, 2000, random)) {
    values.push_back(static_cast<Float>(value_of(type, bits)));
  }
  return values;
}

// The bin that a cell stands for.
std::size_t bin_of_cell(const BinEdges& edges, std::int32_t cell) {
  for (const auto& run : edges.cell_runs()) {
    const auto end = run.first_cell + static_cast<std::int32_t>(run.end_bin - run.first_bin);
    if (run.first_cell <= cell && cell < end) {
      return run.first_bin + static_cast<std::size_t>(cell - run.first_cell);
    }
  }
  return kOutside;
}

// A bit for each group that has an ambiguous cell.
std::uint32_t ambiguous_groups(std::span<const std::int32_t> cells) {
  std::uint32_t groups = 0;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (is_ambiguous(cells[i])) groups |= std::uint32_t{1} << (i / kGroupElements);
  }
  return groups;
}

// Guesses blocks of all sizes and compares them with the rule.
template <typename Float>
void check_guesses(const KernelSet& kernels, const BinEdges& edges, std::span<const Float> values) {
  std::vector<std::int32_t> cells(kBlockElements + 1);
  std::size_t begin = 0;
  for (const std::size_t size : {0, 1, 3, 7, 15, 16, 17, 31, 511, 512, 1000, 1023, 1024}) {
    begin = begin + size > values.size() ? begin % 7 : begin;
    const auto block = values.subspan(begin, size);
    cells.assign(cells.size(), kUntouched);
    const std::uint32_t groups =
        kernel_for<Float>(kernels).guess(block.data(), size, edges.guess(), cells.data());
    REQUIRE(cells[size] == kUntouched);
    const std::span<const std::int32_t> guessed(cells.data(), size);
    // Besides those a padding lane may set its group's bit.
    REQUIRE((groups & ambiguous_groups(guessed)) == ambiguous_groups(guessed));
    if (size % 32 == 0) REQUIRE(groups == ambiguous_groups(guessed));
    for (std::size_t i = 0; i < size; ++i) {
      const auto x = static_cast<double>(block[i]);
      if (is_ambiguous(cells[i])) continue;
      const bool exists =
          edges.guess().first_cell <= cells[i] && cells[i] <= edges.guess().last_cell;
      if (exists && bin_of_cell(edges, cells[i]) == bin_of(edges.edges(), x)) continue;
      FAIL(x << " was guessed in cell " << cells[i]);
    }
    begin += size;
  }
}

// Tables of the cells that edges can have.
struct Tables {
  Tables(const Guess& guess, bool are_four) {
    const auto below = static_cast<std::size_t>(std::max(1, -guess.first_cell));
    const std::size_t size = below + static_cast<std::size_t>(guess.last_cell) + 1;
    counts.resize(are_four ? 4 * size : size);
    for (std::size_t i = 0; i < 4; ++i) {
      cell_tables.cell_0[i] = counts.data() + below + (are_four ? i * size : 0);
    }
  }
  void put(std::span<const std::int32_t> cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) ++cell_tables.cell_0[i % 4][cells[i]];
  }

  std::vector<std::uint32_t> counts;
  CellTables cell_tables;
};

template <typename Float>
void check_guess_and_count(const KernelSet& kernels, const BinEdges& edges,
                           std::span<const Float> values) {
  const Kernel<Float>& kernel = kernel_for<Float>(kernels);
  const Guess& guess = edges.guess();
  std::vector<std::int32_t> expected(kBlockElements), cells(kBlockElements),
      previous(kBlockElements);
  kernel.guess(values.data(), kBlockElements, guess, previous.data());
  const std::uint32_t groups =
      kernel.guess(values.data() + kBlockElements, kBlockElements, guess, expected.data());
  for (const bool are_four : {true, false}) {
    Tables got(guess, are_four);
    Tables plain(guess, are_four);
    plain.put(previous);
    REQUIRE(kernel.guess_and_count(values.data() + kBlockElements, guess, cells.data(),
                                   previous.data(), got.cell_tables) == groups);
    REQUIRE(cells == expected);
    REQUIRE(got.counts == plain.counts);
  }
}

template <typename Float>
void check_sum(const KernelSet& kernels, std::span<const Float> values) {
  const BlockSums sums = kernel_for<Float>(kernels).sum(values.data(), values.size());
  long double sum = 0, squares = 0, size = 0;
  double min = kInfinity, max = -kInfinity;
  for (const Float value : values) {
    const auto x = static_cast<long double>(value);
    sum += x;
    size += std::abs(x);
    squares += x * x;
    min = std::min(min, static_cast<double>(value));
    max = std::max(max, static_cast<double>(value));
  }
  REQUIRE(sums.min == min);
  REQUIRE(sums.max == max);
  REQUIRE(std::abs(static_cast<long double>(sums.sum) - sum) <= 1e-13L * size);
  REQUIRE(std::abs(static_cast<long double>(sums.sum_squares) - squares) <= 1e-13L * squares);
}

// Reads `count` of the elements, from `first` on and `step` apart, and compares all of them.
void check_read(const KernelSet& kernels, ElementType type, const Packed& packed,
                std::span<const std::uint64_t> elements, std::size_t first, std::ptrdiff_t step,
                std::size_t count) {
  const auto size = static_cast<std::ptrdiff_t>(size_bytes(type));
  const std::byte* const data = packed.data() + static_cast<std::ptrdiff_t>(first) * size;
  const auto check = [&]<typename Float>(std::vector<Float> out) {
    out[count] = Float{77};
    kernels.read(data, type, step * size, count, out.data());
    REQUIRE(out[count] == Float{77});
    for (std::size_t i = 0; i < count; ++i) {
      const std::ptrdiff_t at =
          static_cast<std::ptrdiff_t>(first) + static_cast<std::ptrdiff_t>(i) * step;
      const double expected = value_of(type, elements[static_cast<std::size_t>(at)]);
      const auto got = static_cast<double>(out[i]);
      if (std::isnan(expected) ? std::isnan(got)
                               : got == expected && std::signbit(got) == std::signbit(expected)) {
        continue;
      }
      FAIL(expected << " was read as " << got);
    }
  };
  if (is_read_as_float32(type)) {
    check(std::vector<float>(count + 1));
  } else {
    check(std::vector<double>(count + 1));
  }
}

TEST_SUITE("histogram_kernel") {
  TEST_CASE("the portable kernels are always there, as the last resort") {
    REQUIRE(!available_kernels().empty());
    CHECK(std::string(available_kernels().back()->name) == "portable");
    CHECK(&best_kernels() == available_kernels().front());
  }

  TEST_CASE("a guess is ambiguous or the value's bin, whatever the edges") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const auto& [name, edges] : all_edges()) {
      if (edges.guess().kind == Guess::Kind::kNone) continue;
      CAPTURE(name);
      const auto floats = hard_floats<float>(edges.edges(), random);
      const auto doubles = hard_floats<double>(edges.edges(), random);
      for (const KernelSet* kernels : available_kernels()) {
        INFO(std::string(kernels->name));
        for (int i = 0; i < 3; ++i) {  // not aligned to a vector
          check_guesses<float>(*kernels, edges,
                               std::span(floats).subspan(static_cast<std::size_t>(i)));
          check_guesses<double>(*kernels, edges,
                                std::span(doubles).subspan(static_cast<std::size_t>(i)));
        }
      }
    }
  }

  TEST_CASE("a block is guessed the same way while the block before it is counted") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const auto& [name, edges] : all_edges()) {
      if (edges.guess().kind == Guess::Kind::kNone) continue;
      CAPTURE(name);
      const auto floats = hard_floats<float>(edges.edges(), random);
      const auto doubles = hard_floats<double>(edges.edges(), random);
      for (const KernelSet* kernels : available_kernels()) {
        INFO(std::string(kernels->name));
        check_guess_and_count<float>(*kernels, edges, floats);
        check_guess_and_count<double>(*kernels, edges, doubles);
      }
    }
  }

  TEST_CASE("cells are counted, each in its table") {
    std::mt19937_64 random(fresh_seed());
    const Guess& guess = BinEdges::tensorflow().guess();
    for (const std::size_t size : kSizes) {
      std::vector<std::int32_t> cells(size);
      const auto cell_count = static_cast<std::uint64_t>(guess.last_cell - guess.first_cell) + 1;
      for (std::int32_t& cell : cells) {
        cell = guess.first_cell + static_cast<std::int32_t>(random() % cell_count);
        if (random() % 2 == 0) cell = guess.last_cell;  // equal ones in a row
      }
      for (const bool are_four : {true, false}) {
        Tables got(guess, are_four);
        Tables plain(guess, are_four);
        // What is left after the last four may be in any table.
        count_cells(cells.data(), size / 4 * 4, got.cell_tables);
        plain.put(std::span(cells).first(size / 4 * 4));
        REQUIRE(got.counts == plain.counts);
        count_cells(cells.data(), size, got.cell_tables);
        REQUIRE(std::accumulate(got.counts.begin(), got.counts.end(), std::size_t{0}) ==
                size + size / 4 * 4);
      }
    }
  }

  TEST_CASE("the sums, the least and the greatest of a block") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal(0.3, 2);
    std::vector<float> floats(1026);
    std::vector<double> doubles(1026);
    for (float& x : floats) x = static_cast<float>(normal(random));
    for (double& x : doubles) x = normal(random);
    for (const KernelSet* kernels : available_kernels()) {
      INFO(std::string(kernels->name));
      for (std::size_t size = 0; size <= 1024; size += size < 70 ? 1 : 53) {
        // The extremes at every place once.
        floats[1 + size / 2] = 50;
        doubles[1 + size / 3] = -50;
        check_sum<float>(*kernels, std::span(floats).subspan(1, size));
        check_sum<double>(*kernels, std::span(doubles).subspan(1, size));
      }
      for (const double special : {kInfinity, -kInfinity, kNan}) {
        for (std::size_t at = 0; at < 1023; at += 17) {
          std::vector<float> spoilt(1023, 1.0F);
          spoilt[at] = static_cast<float>(special);
          CHECK(!std::isfinite(kernels->float32.sum(spoilt.data(), spoilt.size()).sum));
          const std::vector<double> wide(spoilt.begin(), spoilt.end());
          CHECK(!std::isfinite(kernels->float64.sum(wide.data(), wide.size()).sum));
        }
      }
    }
  }

  TEST_CASE("elements of every type are read exactly, at any distance, without alignment") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const ElementType type : kElementTypes) {
      CAPTURE(static_cast<int>(type));
      auto elements = hard_values(type, BinEdges::tensorflow().edges(), 2600, random);
      for (const std::size_t offset : {0, 1, 3}) {
        const Packed packed(type, elements, offset);
        for (const KernelSet* kernels : available_kernels()) {
          INFO(std::string(kernels->name));
          for (const std::size_t count : {0, 1, 3, 7, 31, 511, 512, 1023, 1024}) {
            check_read(*kernels, type, packed, elements, 5, 1, count);
            check_read(*kernels, type, packed, elements, 1500, -1, count);
            check_read(*kernels, type, packed, elements, 2, 3, count / 2);
            check_read(*kernels, type, packed, elements, 1600, -2, count / 2);
            check_read(*kernels, type, packed, elements, 9, 0, count);
          }
        }
      }
      if (size_bytes(type) > 2) continue;
      std::vector<std::uint64_t> all(type == ElementType::kBool ? 2 : 1 << 8 * size_bytes(type));
      std::iota(all.begin(), all.end(), 0);
      const Packed packed(type, all);
      for (const KernelSet* kernels : available_kernels()) {
        check_read(*kernels, type, packed, all, 0, 1, all.size());
        check_read(*kernels, type, packed, all, all.size() - 1, -1, all.size());
      }
    }
  }
}

}  // namespace
}  // namespace tracelet
