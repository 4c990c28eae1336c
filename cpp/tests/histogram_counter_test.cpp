#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "histogram_checks.h"
#include "histogram_support.h"
#include "test_support.h"
#include "tracelet/histogram/counter.h"
#include "tracelet/platform.h"

namespace tracelet {
namespace {

using testing::all_edges;
using testing::bin_of;
using testing::check_moments;
using testing::check_same;
using testing::counted_plainly;
using testing::Counts;
using testing::counts_of;
using testing::fresh_seed;
using testing::hard_values;
using testing::kElementTypes;
using testing::kInfinity;
using testing::kNan;
using testing::kOutside;
using testing::kSizes;
using testing::kThreadSanitizer;
using testing::Packed;
using testing::repeated;
using testing::values_of;

std::vector<std::uint64_t> normal_values(ElementType type, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0.1, 30);
  std::vector<std::uint64_t> elements(count);
  for (std::uint64_t& bits : elements) bits = testing::bits_near(type, normal(random));
  return elements;
}

TEST_SUITE("histogram_counter") {
  TEST_CASE("every type, edges, size and kernel: the rule's counts and the moments") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::vector<std::unique_ptr<HistogramCounter>> counters;
    for (const KernelSet* kernels : available_kernels()) {
      counters.push_back(std::make_unique<HistogramCounter>(*kernels));
    }
    for (const ElementType type : kElementTypes) {
      CAPTURE(static_cast<int>(type));
      for (const auto& [name, edges] : all_edges()) {
        CAPTURE(name);
        const auto elements = hard_values(type, edges.edges(), 5500, random);
        const auto values = values_of(type, elements);
        const Packed packed(type, elements, random() % 2 == 0 ? 0 : random() % 9);
        for (const std::size_t size : kSizes) {
          if (size > 2000 && random() % 4 != 0) continue;
          CAPTURE(size);
          const std::size_t begin = random() % (values.size() - size);
          const auto tried = std::span(values).subspan(begin, size);
          const Counts expected = counted_plainly(tried, edges);
          for (std::size_t i = 0; i < counters.size(); ++i) {
            INFO(std::string(available_kernels()[i]->name));
            counters[i]->count(packed.view(begin, size), edges);
            REQUIRE(counts_of(*counters[i]) == expected);
            check_moments(counters[i]->moments(), tried);
          }
        }
      }
    }
  }

  TEST_CASE("many elements") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const ElementType type : kElementTypes) {
      CAPTURE(static_cast<int>(type));
      // TensorBoard's, 64 bins, uneven ones.
      for (const std::size_t which : {0, 2, 51}) {
        if (kThreadSanitizer && which > 0) continue;
        const auto& [name, edges] = all_edges()[which];
        CAPTURE(name);
        const auto elements = hard_values(type, edges.edges(), 300000, random);
        const auto values = values_of(type, elements);
        const Counts expected = counted_plainly(values, edges);
        const Packed packed(type, elements);
        for (const KernelSet* kernels : available_kernels()) {
          INFO(std::string(kernels->name));
          HistogramCounter counter(*kernels);
          counter.count(packed.view(), edges);
          REQUIRE(counts_of(counter) == expected);
          check_moments(counter.moments(), values);
        }
      }
    }
  }

  TEST_CASE("the number of threads changes nothing, not a bit of the sums") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    const std::size_t size = (std::size_t{1} << 20) + 70001;
    for (const ElementType type :
         {ElementType::kFloat32, ElementType::kFloat64, ElementType::kInt16}) {
      CAPTURE(static_cast<int>(type));
      auto elements = normal_values(type, size, seed);
      elements[300000] = testing::bits_near(type, kNan);
      elements[900000] = testing::bits_near(type, kInfinity);
      const auto values = values_of(type, elements);
      const Packed packed(type, elements);
      for (const KernelSet* kernels : available_kernels()) {
        INFO(std::string(kernels->name));
        HistogramCounter counter(*kernels);
        counter.count(packed.view(), BinEdges::tensorflow(), 1);
        const Moments expected = counter.moments();
        const Counts counts = counts_of(counter);
        REQUIRE(counts == counted_plainly(values, BinEdges::tensorflow()));
        check_moments(expected, values);
        for (const int threads : {2, 4, 0, 1}) {
          counter.count(packed.view(), BinEdges::tensorflow(), threads);
          REQUIRE(counts_of(counter) == counts);
          check_same(counter.moments(), expected);
          counter.measure(packed.view(), threads);
          check_same(counter.moments(), expected);
        }
      }
    }
  }

  TEST_CASE("two counters at once on the same memory") {
    const std::size_t size = (std::size_t{1} << 19) + 77;
    const auto elements = normal_values(ElementType::kFloat32, size, 11);
    const auto values = values_of(ElementType::kFloat32, elements);
    const Packed packed(ElementType::kFloat32, elements);
    const BinEdges uniform = BinEdges::uniform(-50, 50, 64);
    const Counts expected[] = {counted_plainly(values, BinEdges::tensorflow()),
                               counted_plainly(values, uniform)};
    const auto count = [&](std::size_t which, int& right) {
      HistogramCounter counter;
      for (int i = 0; i < repeated(20); ++i) {
        counter.count(packed.view(), which == 0 ? BinEdges::tensorflow() : uniform, 2);
        right += counts_of(counter) == expected[which] ? 1 : 0;
      }
    };
    int right[2] = {};
    std::thread other([&] { count(1, right[1]); });
    count(0, right[0]);
    other.join();
    CHECK(right[0] == repeated(20));
    CHECK(right[1] == repeated(20));
  }

  TEST_CASE("a counter keeps nothing of what it counted before") {
    const std::uint64_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::vector<std::unique_ptr<HistogramCounter>> counters;
    for (const KernelSet* kernels : available_kernels()) {
      counters.push_back(std::make_unique<HistogramCounter>(*kernels));
    }
    for (int round = 0; round < repeated(1500); ++round) {
      const ElementType type = kElementTypes[random() % std::size(kElementTypes)];
      const auto& [name, edges] = all_edges()[random() % all_edges().size()];
      CAPTURE(static_cast<int>(type));
      CAPTURE(name);
      // Calm: all inside the edges, where only the bins between the extremes are emptied.
      auto elements = hard_values(type, edges.edges(), random() % 4000, random);
      if (random() % 2 == 0) {
        std::erase_if(elements, [&](std::uint64_t bits) {
          return bin_of(edges.edges(), testing::value_of(type, bits)) == kOutside;
        });
      }
      elements.resize(elements.size() - random() % (elements.size() + 1));
      const auto values = values_of(type, elements);
      const Packed packed(type, elements);
      for (const auto& counter : counters) {
        if (random() % 8 == 0) {
          counter->measure(packed.view());
          check_moments(counter->moments(), values);
          continue;
        }
        counter->count(packed.view(), edges);
        REQUIRE(counts_of(*counter) == counted_plainly(values, edges));
        check_moments(counter->moments(), values);
      }
    }
  }

  TEST_CASE("threads: as many as asked for, but none without a part of its own") {
    constexpr std::size_t kPart = std::size_t{1} << 18;
    CHECK(choose_threads(1, 100 * kPart) == 1);
    CHECK(choose_threads(3, 100 * kPart) == 3);
    CHECK(choose_threads(64, 100 * kPart) == 64);
    CHECK(choose_threads(8, 5 * kPart) == 5);
    CHECK(choose_threads(8, 2 * kPart - 1) == 1);
    CHECK(choose_threads(8, 2 * kPart) == 2);
    CHECK(choose_threads(8, 0) == 1);
    CHECK(choose_threads(-1, 100 * kPart) == 1);
    CHECK(choose_threads(0, 100 * kPart) == std::min(usable_cores(), 4));
    CHECK(choose_threads(0, kPart) == 1);
    CHECK(choose_threads(1 << 30, SIZE_MAX) <= 1024);
    const pid_t child = testing::start_child([] {
      return choose_threads(0, 100 * kPart) == 1 && choose_threads(2, 100 * kPart) == 2 ? 0 : 1;
    });
    CHECK(testing::end_of_child(child) == 0);
  }
}

}  // namespace
}  // namespace tracelet
