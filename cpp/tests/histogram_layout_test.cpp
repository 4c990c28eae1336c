// Arrays that are not one run of aligned elements.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "histogram_checks.h"
#include "histogram_support.h"
#include "test_support.h"
#include "tracelet/histogram/array_view.h"
#include "tracelet/histogram/counter.h"

namespace tracelet {
namespace {

using testing::all_edges;
using testing::check_moments;
using testing::check_same;
using testing::counted_plainly;
using testing::Counts;
using testing::counts_of;
using testing::fresh_seed;
using testing::kElementTypes;

// Memory with dimensions that lie in it, and its elements, found one by one.
struct Strided {
  // Distances in elements; `skip` bytes are added to each, and lie before the first element.
  Strided(ElementType its_type, std::vector<Dimension> its_dimensions, std::size_t skip,
          std::mt19937_64& random)
      : type(its_type), dimensions(std::move(its_dimensions)) {
    const auto unit = static_cast<std::int64_t>(size_bytes(type) + skip);
    std::int64_t lowest = 0, highest = 0;
    for (Dimension& dimension : dimensions) {
      dimension.stride_bytes *= unit;
      const std::int64_t reach =
          std::max<std::int64_t>(0, dimension.size - 1) * dimension.stride_bytes;
      (reach < 0 ? lowest : highest) += reach;
    }
    first = skip + static_cast<std::size_t>(-lowest);
    bytes.resize(first + static_cast<std::size_t>(highest) + size_bytes(type));
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random() & (type == ElementType::kBool ? 1 : 255));
    }
    collect(0, static_cast<std::int64_t>(first));
  }
  void collect(std::size_t depth, std::int64_t at) {
    if (depth == dimensions.size()) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, bytes.data() + at, size_bytes(type));
      values.push_back(testing::value_of(type, bits));
      return;
    }
    for (std::int64_t i = 0; i < dimensions[depth].size; ++i) {
      collect(depth + 1, at + i * dimensions[depth].stride_bytes);
    }
  }
  ArrayView view() const { return ArrayView(bytes.data() + first, type, dimensions); }

  ElementType type;
  std::vector<Dimension> dimensions;
  std::size_t first;
  std::vector<std::byte> bytes;
  std::vector<double> values;
};

TEST_SUITE("histogram_layout") {
  TEST_CASE("any strides and dimensions: each element is counted once") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const std::vector<std::vector<Dimension>> shapes{
        {},  // a single element
        {{1, 1}},
        {{0, 1}},
        {{5, 1}, {0, -3}, {7, 1}},
        {{3000, 1}},
        {{3000, 3}},
        {{3000, -1}},
        {{1500, -2}},
        {{2000, 0}},  // one element 2000 times
        {{40, 30}, {30, 1}},
        {{30, 1}, {40, 30}},  // transposed
        {{40, 37}, {30, 1}},  // rows with gaps
        {{40, -37}, {30, 1}},
        {{40, 37}, {30, -1}},
        {{3, 2000}, {1100, 1}},  // rows longer than a block
        {{2, 3000}, {1024, -2}},
        {{50, 0}, {30, 1}},  // rows that are one row
        {{30, 1}, {50, 0}},
        {{12, 1}, {300, 1}},  // overlapping windows
        {{5, 132}, {4, 33}, {3, 11}, {11, 1}},
        {{4, 33}, {11, -1}, {1, 7}, {5, -140}, {3, 11}},
        {{2, 1}, {2, 2}, {2, 4}, {2, 8}, {2, 16}, {2, 32}, {2, 64}, {2, 128}, {2, 256}, {3, 512}},
        {{2, 3}, {2, -7}, {2, 20}, {2, 41}, {2, -90}, {2, 200}, {2, 401}, {2, 0}, {2, 900}},
    };
    for (const ElementType type : kElementTypes) {
      CAPTURE(static_cast<int>(type));
      for (std::size_t shape = 0; shape < shapes.size(); ++shape) {
        CAPTURE(shape);
        for (const std::size_t skip : {0, 1, 4}) {
          const Strided memory(type, shapes[shape], skip, random);
          REQUIRE(memory.view().element_count() == memory.values.size());
          for (const KernelSet* kernels : available_kernels()) {
            INFO(std::string(kernels->name));
            HistogramCounter counter(*kernels);
            counter.count(memory.view(), BinEdges::tensorflow());
            REQUIRE(counts_of(counter) == counted_plainly(memory.values, BinEdges::tensorflow()));
            check_moments(counter.moments(), memory.values);
          }
        }
      }
    }
  }

  TEST_CASE("dimensions that fill their memory are one run") {
    const auto merged = [](std::vector<Dimension> dimensions) {
      static const std::byte memory[1 << 16] = {};
      return ArrayView(memory + (1 << 15), ElementType::kFloat32, dimensions).dimensions().size();
    };
    CHECK(merged({{30, 160}, {40, 4}}) == 1);
    CHECK(merged({{40, 4}, {30, 160}}) == 1);
    CHECK(merged({{30, -160}, {40, -4}}) == 1);
    CHECK(merged({{3, 160}, {5, 32}, {8, 4}, {1, 99}}) == 1);
    CHECK(merged({{30, 164}, {40, 4}}) == 2);
    CHECK(merged({}) == 0);
    // No memory at all.
    const std::vector<Dimension> none{{0, 8}, {3, -8}};
    HistogramCounter counter;
    counter.count(ArrayView(nullptr, ElementType::kFloat64, none), BinEdges::tensorflow(), 4);
    CHECK(counts_of(counter) == Counts(1548));
    CHECK(counter.moments().num == 0);
  }

  TEST_CASE("threads begin in the middle of rows") {
    std::mt19937_64 random(fresh_seed());
    const Strided memory(ElementType::kInt16, {{900, -1003}, {7, 1}, {143, 7}}, 1, random);
    REQUIRE(memory.view().dimensions().size() > 1);
    HistogramCounter counter;
    counter.count(memory.view(), all_edges()[2].edges, 1);
    const Moments expected = counter.moments();
    for (const int threads : {1, 3}) {
      counter.count(memory.view(), BinEdges::tensorflow(), threads);
      REQUIRE(counts_of(counter) == counted_plainly(memory.values, BinEdges::tensorflow()));
      check_same(counter.moments(), expected);
    }
  }
}

}  // namespace
}  // namespace tracelet
