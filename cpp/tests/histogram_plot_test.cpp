// Histograms as figures: mass is kept, bars stay few, a timeline stays small.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tracelet/crc32c.h"
#include "tracelet/histogram/plot.h"
#include "tracelet/histogram/timelines.h"

namespace tracelet {
namespace {

HistogramBuckets buckets_of(double min, double max, std::vector<double> limits,
                            std::vector<double> counts, std::uint16_t flags = 0) {
  HistogramBuckets buckets;
  buckets.header = HistogramHeader{};
  buckets.header.min = min;
  buckets.header.max = max;
  buckets.header.num = std::accumulate(counts.begin(), counts.end(), 0.0);
  buckets.header.flags = flags;
  buckets.limits = std::move(limits);
  buckets.counts = std::move(counts);
  return buckets;
}

// So many random values at most, in TensorBoard's buckets.
std::string random_payload(std::mt19937_64& random, double spread, std::size_t most) {
  std::normal_distribution<double> values(0, spread);
  std::vector<double> drawn(1 + random() % most);
  for (double& value : drawn) value = values(random);
  const Dimension dimension{static_cast<std::int64_t>(drawn.size()), sizeof(double)};
  HistogramCounter counter;
  counter.count(ArrayView(drawn.data(), ElementType::kFloat64, {&dimension, 1}),
                BinEdges::tensorflow());
  std::string payload;
  append_histogram_payload(counter.moments(), BinEdges::tensorflow(), counter.counts(), 0, payload);
  return payload;
}

HistogramBuckets random_buckets(std::mt19937_64& random) {
  const double spread = std::exp2(static_cast<int>(random() % 40) - 30);
  const std::string payload = random_payload(random, spread, 5000);
  HistogramBuckets buckets;
  REQUIRE(buckets.read(std::as_bytes(std::span(payload))));
  return buckets;
}

// The numbers of the list that follows `key`.
std::vector<double> list_of(const std::string& figure, const std::string& key) {
  const std::size_t start = figure.find("\"" + key + "\":[");
  REQUIRE(start != std::string::npos);
  std::vector<double> values;
  const char* at = figure.c_str() + start + key.size() + 4;
  while (*at != ']') {
    char* end;
    values.push_back(std::strtod(at, &end));
    REQUIRE(end != at);
    at = *end == ',' ? end + 1 : end;
  }
  return values;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

TEST_SUITE("histogram_plot") {
  TEST_CASE("a bucket is spread over the bins that it reaches, as far as the values go") {
    // 10 values in [0, 4), 6 in [4, 8), of which the largest is 6.
    const auto buckets = buckets_of(0, 6, {0, 4, 8}, {0, 10, 6});
    // One of them is at 0, one at 6; the other 9 and 5 are spread.
    CHECK(spread(buckets, 0, 6, 3) == std::vector<double>{6, 4, 6});           // of 5.5, 4.5, 6
    CHECK(spread(buckets, 0, 6, 6) == std::vector<double>{3, 3, 2, 2, 3, 3});  // of 3.25, 2.25 ...
    CHECK(spread(buckets, -6, 6, 2) == std::vector<double>{0, 16});
  }

  TEST_CASE("counts stay whole and their total what it is") {
    std::mt19937_64 random(3);
    for (int round = 0; round < 300; ++round) {
      const HistogramBuckets buckets = random_buckets(random);
      const std::vector<double> bins =
          spread(buckets, buckets.header.min, buckets.header.max + 1e-30, 64);
      for (const double bin : bins) {
        REQUIRE(bin >= 0);
        REQUIRE(bin == std::trunc(bin));
      }
      REQUIRE(sum(bins) == buckets.header.num);
    }
  }

  TEST_CASE("bars are at most 64, of one width, from min to max, without empty ones") {
    std::mt19937_64 random(5);
    for (int round = 0; round < 100; ++round) {
      const HistogramBuckets buckets = random_buckets(random);
      std::string figure;
      append_bar_figure(buckets, figure);
      const auto x = list_of(figure, "x"), y = list_of(figure, "y"),
                 width = list_of(figure, "width");
      REQUIRE(x.size() == y.size());
      REQUIRE(x.size() == width.size());
      REQUIRE(x.size() <= kUniformBars);
      REQUIRE(sum(y) == buckets.header.num);
      REQUIRE(*std::min_element(y.begin(), y.end()) > 0);
      const double slack = 1e-5 * (buckets.header.max - buckets.header.min + width[0]);
      REQUIRE(x.front() - width.front() / 2 <= buckets.header.min + slack);
      REQUIRE(x.back() + width.back() / 2 >= buckets.header.max - slack);
      REQUIRE(figure.size() < 4096);
    }
  }

  TEST_CASE("bins that the user chose are shown as they are, up to 128") {
    const auto buckets = buckets_of(1, 9, {0, 2, 8, 10}, {0, 5, 0, 7}, kExplicitLimits);
    std::string figure;
    append_bar_figure(buckets, figure);
    CHECK(list_of(figure, "x") == std::vector<double>{1, 9});
    CHECK(list_of(figure, "y") == std::vector<double>{5, 7});
    CHECK(list_of(figure, "width") == std::vector<double>{2, 2});
    std::vector<double> limits(1001), counts(1001, 1);
    std::iota(limits.begin(), limits.end(), 0.0);
    counts[0] = 0;
    std::string larger;
    append_bar_figure(buckets_of(0, 1000, limits, counts, kExplicitLimits), larger);
    CHECK(list_of(larger, "x").size() == kUniformBars);
    CHECK(sum(list_of(larger, "y")) == 1000);
  }

  TEST_CASE("what can't be drawn leaves a figure that is JSON") {
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    constexpr double kMost = std::numeric_limits<double>::max();
    const std::uint16_t raw = kExplicitLimits | kDoubleCounts;
    const std::vector<HistogramBuckets> cases = {
        buckets_of(0, 0, {}, {}),
        buckets_of(3, 3, {2.9, 3.1}, {0, 8}),
        buckets_of(kNaN, kNaN, {1, 2}, {0, 8}, raw),
        buckets_of(-kInfinity, kInfinity, {-kInfinity, 0, kInfinity}, {1, 2, 3}, raw),
        buckets_of(0, 1, {kNaN, kNaN}, {kNaN, 2}, raw),
        buckets_of(5, -5, {1, 2}, {-1, 2}, raw),
        buckets_of(-kMost, kMost, {-kMost, 0, kMost}, {0, 2, 3}, raw),
        buckets_of(-kMost, kMost, {-kMost, 0, kMost}, {0, 2, 3}),
        buckets_of(5e-324, 1e-323, {5e-324, 1e-323}, {0, 3}),
        buckets_of(1e300, 1e300, {1e300, 1.1e300}, {0, 3}),
    };
    for (const HistogramBuckets& buckets : cases) {
      std::string figure;
      append_bar_figure(buckets, figure);
      HistogramTimeline timeline;
      timeline.add(1, buckets);
      timeline.add(2, buckets);
      if (!timeline.is_empty()) timeline.append_heatmap_figure(figure);
      CAPTURE(figure);
      CHECK(figure.find("nan") == std::string::npos);
      CHECK(figure.find("inf") == std::string::npos);
    }
  }

  TEST_CASE("values that are not finite are in the title") {
    auto buckets = buckets_of(0, 1, {0, 1}, {0, 5});
    buckets.header.nan_count = 1234;
    buckets.header.inf_count = 1;
    std::string figure;
    append_bar_figure(buckets, figure);
    CHECK(figure.find("1,234 NaN and 1 infinite of 1,240 values are not shown") !=
          std::string::npos);
  }

  TEST_CASE("a timeline keeps the first of every n and the last, and stays small") {
    const auto buckets = buckets_of(-1, 1, {-1, 0, 1}, {0, 1'000'000, 2'000'000});
    HistogramTimeline timeline;
    std::size_t largest_bytes = 0;
    for (std::int64_t step = 0; step < 100'000; ++step) {
      timeline.add(step, buckets);
      if (step != 47 && step != 48 && step != 49 && step != 95 && step != 96 && step % 9'973 != 0) {
        continue;
      }
      std::string figure;
      timeline.append_heatmap_figure(figure);
      largest_bytes = std::max(largest_bytes, figure.size());
      const auto steps = list_of(figure, "y");
      CAPTURE(step);
      REQUIRE(steps.size() <= HistogramTimeline::kMostRows + 1);
      REQUIRE(steps.size() >= std::min<std::size_t>(static_cast<std::size_t>(step) + 1,
                                                    HistogramTimeline::kMostRows / 2));
      REQUIRE(steps.front() == 0);
      REQUIRE(steps.back() == static_cast<double>(step));
      for (std::size_t i = 2; i + 1 < steps.size(); ++i) {
        REQUIRE(steps[i] - steps[i - 1] == steps[1] - steps[0]);
      }
      const std::string row = "\"z\":[[";
      const std::size_t start = figure.find(row);
      REQUIRE(start != std::string::npos);
      figure.replace(start, row.size(), "\"first\":[");
      REQUIRE(sum(list_of(figure, "first")) == 3'000'000);
    }
    CHECK(largest_bytes < 64 << 10);
  }

  TEST_CASE("rows are sorted by step, and of one step the last is shown") {
    HistogramTimeline timeline;
    for (const std::int64_t step : {5, 3, 9, 3}) {
      timeline.add(step, buckets_of(0, 1, {0, 1}, {0, static_cast<double>(step)}));
    }
    std::string figure;
    timeline.append_heatmap_figure(figure);
    CHECK(list_of(figure, "y") == std::vector<double>{3, 5, 9});
  }
}

// Three series, so many histograms each.
struct Histograms {
  std::vector<Record> records;
  std::string payloads;

  Histograms(std::mt19937_64& random, std::size_t count) {
    for (std::size_t i = 0; i < 3 * count; ++i) {
      const std::string payload =
          random_payload(random, 1 + static_cast<double>(random() % 5), 200);
      Record record{};
      record.sequence = i + 1;
      record.step = static_cast<std::int64_t>(i / 3);
      record.tag_id = static_cast<std::uint32_t>(1 + i % 3);
      record.kind = RecordKind::kHistogram;
      record.payload_offset = payloads.size();
      record.payload_size = payload.size();
      payloads += payload;
      records.push_back(record);
    }
  }

  void give(HistogramTimelines& timelines, std::size_t first, std::size_t end) const {
    timelines.observe({records.data() + first, end - first},
                      {reinterpret_cast<const std::byte*>(payloads.data()), payloads.size()});
  }
};

std::vector<std::string> plots_of(HistogramTimelines& timelines) {
  for (const auto& key : timelines.keys()) timelines.put_back(key);
  std::vector<std::string> plots;
  for (auto& figure : timelines.take_changed()) plots.push_back(std::move(figure.plot));
  return plots;
}

TEST_CASE("a restored timeline goes on as the one whose state it was") {
  std::mt19937_64 random(7);
  for (const std::size_t count : {0, 1, 2, 47, 48, 49, 96, 97, 200}) {
    CAPTURE(count);
    const Histograms histograms(random, count + 60);
    HistogramTimelines whole;
    HistogramTimelines dead;
    histograms.give(whole, 0, histograms.records.size());
    histograms.give(dead, 0, 3 * count);
    std::string state;
    dead.append_state(state);
    HistogramTimelines next;
    REQUIRE(next.restore(std::as_bytes(std::span(state))));
    CHECK(plots_of(next) == plots_of(dead));
    histograms.give(next, count, histograms.records.size());  // some are given again
    CHECK(plots_of(next) == plots_of(whole));
  }
}

TEST_CASE("a state that was cut or changed is refused, whatever its checksum says") {
  std::mt19937_64 random(8);
  const Histograms histograms(random, 60);
  HistogramTimelines timelines;
  histograms.give(timelines, 0, histograms.records.size());
  std::string state;
  timelines.append_state(state);
  const auto restores = [](const std::string& bytes) {
    HistogramTimelines other;
    return other.restore(std::as_bytes(std::span(bytes)));
  };
  REQUIRE(restores(state));
  for (std::size_t size = 0; size < state.size(); size += 1 + state.size() / 500) {
    CHECK_FALSE(restores(state.substr(0, size)));
  }
  for (int i = 0; i < 2000; ++i) {
    std::string changed = state;
    changed[random() % changed.size()] ^= static_cast<char>(1 << random() % 8);
    CHECK_FALSE(restores(changed));
    // With a checksum that fits: refused, or taken with figures that are still whole.
    const std::uint32_t crc = crc32c(changed.data(), changed.size() - 4);
    std::memcpy(changed.data() + changed.size() - 4, &crc, 4);
    HistogramTimelines other;
    if (!other.restore(std::as_bytes(std::span(changed)))) continue;
    for (const std::string& plot : plots_of(other)) {
      CHECK(plot.find("nan") == std::string::npos);
      CHECK(plot.find("inf") == std::string::npos);
    }
  }
}

}  // namespace
}  // namespace tracelet
