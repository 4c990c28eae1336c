// What a HistogramCounter found, compared with what a plain count finds.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "histogram_support.h"
#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/counter.h"

namespace tracelet::testing {

using Counts = std::vector<std::uint64_t>;

inline Counts counts_of(const HistogramCounter& counter) {
  const auto counts = counter.counts();
  const auto [begin, end] = counter.occupied_bins();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (i < begin || i >= end) REQUIRE(counts[i] == 0);
  }
  return {counts.begin(), counts.end()};
}

inline Counts counted_plainly(std::span<const double> values, const BinEdges& edges) {
  Counts counts(edges.bin_count());
  for (const double x : values) {
    const std::size_t bin = bin_of(edges.edges(), x);
    if (bin != kOutside) ++counts[bin];
  }
  return counts;
}

// To 1e-12 of the terms' absolute values, and the rounding of squares below the least double.
inline void check_sum(double got, long double sum, long double size, std::size_t count) {
  constexpr auto kMost = static_cast<long double>(std::numeric_limits<double>::max());
  if (size > kMost) {
    // With both signs it depends on the order, and a little more than the most is rounded to it.
    if (std::abs(sum) == size && size > 1.5L * kMost) REQUIRE(std::isinf(got));
    return;
  }
  const long double least = 5e-324L * static_cast<long double>(count);
  REQUIRE(std::abs(static_cast<long double>(got) - sum) <= 1e-12L * size + least);
}

inline void check_moments(const Moments& moments, std::span<const double> values) {
  long double sum = 0, size = 0, squares = 0;
  double min = kInfinity, max = -kInfinity;
  std::uint64_t num = 0, nan_count = 0, inf_count = 0;
  for (const double x : values) {
    nan_count += std::isnan(x) ? 1 : 0;
    inf_count += std::isinf(x) ? 1 : 0;
    if (!std::isfinite(x)) continue;
    ++num;
    min = std::min(min, x);
    max = std::max(max, x);
    const auto exact = static_cast<long double>(x);
    sum += exact;
    size += std::abs(exact);
    squares += exact * exact;
  }
  REQUIRE(moments.num == num);
  REQUIRE(moments.nan_count == nan_count);
  REQUIRE(moments.inf_count == inf_count);
  if (num == 0) {
    REQUIRE(std::isnan(moments.min));
    REQUIRE(std::isnan(moments.max));
  } else {
    REQUIRE(moments.min == min);
    REQUIRE(moments.max == max);
  }
  check_sum(moments.sum, sum, size, num);
  check_sum(moments.sum_squares, squares, squares, num);
}

inline bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

inline void check_same(const Moments& got, const Moments& expected) {
  REQUIRE(same_bits(got.sum, expected.sum));
  REQUIRE(same_bits(got.sum_squares, expected.sum_squares));
  REQUIRE((got.min == expected.min || (std::isnan(got.min) && std::isnan(expected.min))));
  REQUIRE((got.max == expected.max || (std::isnan(got.max) && std::isnan(expected.max))));
  REQUIRE(got.num == expected.num);
  REQUIRE(got.nan_count == expected.nan_count);
  REQUIRE(got.inf_count == expected.inf_count);
}

}  // namespace tracelet::testing
