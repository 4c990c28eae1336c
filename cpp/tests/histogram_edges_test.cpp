#include <doctest/doctest.h>

#include <stdexcept>
#include <vector>

#include "histogram_support.h"
#include "test_support.h"
#include "tracelet/histogram/bin_edges.h"

namespace tracelet {
namespace {

using testing::all_edges;
using testing::bin_of;
using testing::fresh_seed;
using testing::kInfinity;
using testing::kNan;
using testing::kOutside;

std::vector<double> edges_of(const BinEdges& edges) {
  return {edges.edges().begin(), edges.edges().end()};
}

// Of many edges, every bit of which matters. In Python:
//   for x in edges: hash = (hash * 31 + int.from_bytes(struct.pack("<d", x), "little")) % 2**64
std::uint64_t hash_of(const BinEdges& edges) {
  std::uint64_t hash = 0;
  for (const double edge : edges.edges()) hash = hash * 31 + std::bit_cast<std::uint64_t>(edge);
  return hash;
}

// The rule word for word. Of several bins it leaves the last: a bin without width holds nothing
// unless it is the last one.
std::size_t bin_by_walk(std::span<const double> edges, double x) {
  std::size_t found = kOutside;
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    const bool is_last = i + 2 == edges.size();
    if (edges[i] <= x && (x < edges[i + 1] || (is_last && x == edges[i + 1]))) found = i;
  }
  return found;
}

TEST_SUITE("histogram_edges") {
  TEST_CASE("TensorBoard's edges are SummaryWriter's, bit by bit") {
    const BinEdges& edges = BinEdges::tensorflow();
    CHECK(edges.bin_count() == 1548);
    CHECK(hash_of(edges) == 0xefa6786daff4fdba);
    CHECK(edges.edges()[774] == 0);
    CHECK(edges.is_tensorflow());
    CHECK(!BinEdges::uniform(0, 1, 2).is_tensorflow());
  }

  TEST_CASE("uniform edges are numpy's, bit by bit") {
    using Edges = std::vector<double>;
    CHECK(edges_of(BinEdges::uniform(0, 1, 10)) ==
          Edges{0, 0x1.999999999999ap-4, 0x1.999999999999ap-3, 0x1.3333333333334p-2,
                0x1.999999999999ap-2, 0.5, 0x1.3333333333334p-1, 0x1.6666666666667p-1,
                0x1.999999999999ap-1, 0x1.ccccccccccccdp-1, 1});
    CHECK(edges_of(BinEdges::uniform(-3, 5, 7)) ==
          Edges{-3, -0x1.db6db6db6db6ep+0, -0x1.6db6db6db6db8p-1, 0x1.b6db6db6db6d8p-2,
                0x1.9249249249248p+0, 0x1.5b6db6db6db6cp+1, 0x1.edb6db6db6db6p+1, 5});
    CHECK(edges_of(BinEdges::uniform(1e6, 1e6 + 1, 3)) ==
          Edges{1e6, 0x1.e8480aaaaaaabp+19, 0x1.e848155555555p+19, 1e6 + 1});
    CHECK(edges_of(BinEdges::uniform(0.1, 0.7, 6)) ==
          Edges{0.1, 0x1.999999999999ap-3, 0x1.3333333333333p-2, 0x1.999999999999ap-2, 0.5,
                0x1.3333333333333p-1, 0.7});
    CHECK(edges_of(BinEdges::uniform(-1e300, 1e300, 3)) ==
          Edges{-1e300, -0x1.fdafb60009cd0p+994, 0x1.fdafb60009cd0p+994, 1e300});
    CHECK(edges_of(BinEdges::uniform(0, 5e-322, 4)) ==
          Edges{0, 0x1.9p-1070, 0x1.9p-1069, 0x1.2cp-1068, 5e-322});
    CHECK(edges_of(BinEdges::uniform(2.5, 2.5, 3)) ==
          Edges{2, 0x1.2aaaaaaaaaaabp+1, 0x1.5555555555555p+1, 3});

    CHECK(hash_of(BinEdges::uniform(-1, 1, 64)) == 0x6060000000000000);
    CHECK(hash_of(BinEdges::uniform(0, 1, 1000)) == 0xa56ab79c36e09336);
    CHECK(hash_of(BinEdges::uniform(-0.1234, 17.75, 1000)) == 0x5794b6167f1c5505);
    CHECK(hash_of(BinEdges::uniform(1e6, 1e6 + 1, 1000)) == 0x38f1f3cd7b60b900);
    CHECK(hash_of(BinEdges::uniform(1e-30, 7e-30, 64)) == 0x377957c84fd6c4c5);
    CHECK(hash_of(BinEdges::uniform(-1e-3, 1e-3, 200000)) == 0x3dd3e1c3f46f8e5b);
  }

  TEST_CASE("edges that make no bins are refused") {
    using Edges = std::vector<double>;
    for (const Edges& edges : {Edges{}, Edges{1}, Edges{1, 0}, Edges{0, 1, 2, 1.5}, Edges{kNan, 1},
                               Edges{0, kNan}, Edges{0, kNan, 1}, Edges{kInfinity, -kInfinity}}) {
      CHECK_THROWS_AS(BinEdges{edges}, std::invalid_argument);
    }
    CHECK_THROWS_AS(BinEdges::uniform(0, 1, 0), std::invalid_argument);
    CHECK_THROWS_AS(BinEdges::uniform(1, 0, 10), std::invalid_argument);
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      CHECK_THROWS_AS(BinEdges::uniform(0, bad, 10), std::invalid_argument);
      CHECK_THROWS_AS(BinEdges::uniform(bad, 0, 10), std::invalid_argument);
    }
    // More bins than there are numbers.
    CHECK_THROWS_AS(BinEdges::uniform(1, 1 + 0x1p-51, 3), std::invalid_argument);
    CHECK(BinEdges::uniform(1, 1 + 0x1p-51, 2).bin_count() == 2);
    CHECK_THROWS_AS(BinEdges::uniform(0, 5e-324, 2), std::invalid_argument);
    CHECK_THROWS_AS(BinEdges::uniform(1e20, 1e20, 1), std::invalid_argument);
    CHECK_THROWS_AS(BinEdges::uniform(0, 1, SIZE_MAX), std::invalid_argument);
  }

  TEST_CASE("find agrees with a walk over all bins") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const auto& [name, edges] : all_edges()) {
      CAPTURE(name);
      const auto tried = testing::hard_values(ElementType::kFloat64, edges.edges(), 200, random);
      for (std::size_t i = 0; i < tried.size(); i += edges.bin_count() > 2000 ? 10 : 1) {
        const double x = std::bit_cast<double>(tried[i]);
        const std::size_t expected = bin_by_walk(edges.edges(), x);
        REQUIRE_MESSAGE(edges.find(x) == expected, x);
        REQUIRE_MESSAGE(bin_of(edges.edges(), x) == expected, x);
      }
    }
  }
}

}  // namespace
}  // namespace tracelet
