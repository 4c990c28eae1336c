// Histograms as payloads, as TensorBoard's events and as plots.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "event_reader.h"
#include "tracelet/event_file.h"
#include "tracelet/histogram/payload.h"

namespace tracelet {
namespace {

using testing::Reader;

Moments moments_of(double min, double max, std::uint64_t num) {
  return {min, max, min + max, min * min + max * max, num, 0, 0};
}

HistogramBuckets read(const std::string& payload) {
  HistogramBuckets buckets;
  REQUIRE(buckets.read(std::as_bytes(std::span(payload))));
  return buckets;
}

std::vector<std::uint64_t> counts_with(std::size_t size,
                                       std::initializer_list<std::pair<std::size_t, int>> filled) {
  std::vector<std::uint64_t> counts(size, 0);
  for (const auto& [bin, count] : filled) counts[bin] = static_cast<std::uint64_t>(count);
  return counts;
}

TEST_SUITE("histogram_payload") {
  TEST_CASE("TensorBoard's bins come back with the limits of torch's buckets") {
    const BinEdges& edges = BinEdges::tensorflow();
    const auto counts = counts_with(edges.bin_count(), {{700, 3}, {701, 1}, {800, 200}});
    std::string payload;
    append_histogram_payload(moments_of(-1, 2, 204), edges, counts, 0, payload);
    CHECK(payload.size() < 64 + 16);  // runs of zeros take three bytes
    const HistogramBuckets buckets = read(payload);
    // An empty bucket, whose limit is bin 700's left edge, then bins 700 to 800.
    REQUIRE(buckets.counts.size() == 102);
    REQUIRE(buckets.limits.size() == 102);
    CHECK(buckets.counts[0] == 0);
    CHECK(buckets.counts[1] == 3);
    CHECK(buckets.counts[2] == 1);
    CHECK(buckets.counts[101] == 200);
    CHECK(std::accumulate(buckets.counts.begin(), buckets.counts.end(), 0.0) == 204);
    for (std::size_t i = 0; i < 102; ++i) CHECK(buckets.limits[i] == edges.edges()[700 + i]);
    CHECK(buckets.header.min == -1);
    CHECK(buckets.header.num == 204);
  }

  TEST_CASE("bins are merged as torch merges them") {
    const BinEdges edges = BinEdges::uniform(0, 10, 10);
    std::vector<std::uint64_t> counts(10);
    std::iota(counts.begin(), counts.end(), 1U);
    std::string payload;
    // 10 bins to 4: groups of 10 / 4 = 2; to 3: groups of 3, the last one of a single bin.
    append_histogram_payload(moments_of(0, 10, 55), edges, counts, 4, payload);
    CHECK(read(payload).counts == std::vector<double>{0, 3, 7, 11, 15, 19});
    CHECK(read(payload).limits == std::vector<double>{0, 2, 4, 6, 8, 10});
    payload.clear();
    append_histogram_payload(moments_of(0, 10, 55), edges, counts, 3, payload);
    CHECK(read(payload).counts == std::vector<double>{0, 6, 15, 24, 10});
    CHECK(read(payload).limits == std::vector<double>{0, 3, 6, 9, 10});
  }

  TEST_CASE("values that are all outside, or none, leave no bucket") {
    std::string payload;
    append_histogram_payload(moments_of(50, 60, 3), BinEdges::uniform(0, 1, 4), counts_with(4, {}),
                             0, payload);
    const HistogramBuckets buckets = read(payload);
    CHECK(buckets.counts.empty());
    CHECK(buckets.limits.empty());
    CHECK(buckets.header.num == 3);
    payload.clear();
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    append_histogram_payload({kNaN, kNaN, 0, 0, 0, 2, 1}, BinEdges::tensorflow(),
                             counts_with(1548, {}), 0, payload);
    CHECK(read(payload).header.min == 0);
    CHECK(read(payload).header.nan_count == 2);
    CHECK(read(payload).header.inf_count == 1);
  }

  TEST_CASE("any counts come back, and any piece of a payload is refused") {
    std::mt19937_64 random(7);
    HistogramBuckets buckets;
    for (int round = 0; round < 300; ++round) {
      const std::size_t bins = 1 + random() % 300;
      std::vector<double> edges(bins + 1);
      std::iota(edges.begin(), edges.end(), -100.0);
      std::vector<std::uint64_t> counts(bins);
      for (std::uint64_t& count : counts) {
        if (random() % 3 == 0) count = random() >> (11 + random() % 53);
      }
      counts[random() % bins] = 1;
      std::string payload;
      append_histogram_payload(moments_of(0, 1, 1), BinEdges(edges), counts, 0, payload);
      REQUIRE(buckets.read(std::as_bytes(std::span(payload))));
      std::vector<double> padded(counts.begin(), counts.end());
      while (padded.back() == 0) padded.pop_back();
      padded.erase(padded.begin(), std::find_if(padded.begin(), padded.end(),
                                                [](double count) { return count != 0; }));
      padded.insert(padded.begin(), 0.0);
      REQUIRE(buckets.counts == padded);
      const std::size_t cut = random() % payload.size();
      CHECK_FALSE(buckets.read(std::as_bytes(std::span(payload.data(), cut))));
    }
  }

  TEST_CASE("random bytes are refused or read within their bounds") {
    std::mt19937_64 random(11);
    HistogramBuckets buckets;
    for (int round = 0; round < 20'000; ++round) {
      std::string bytes(random() % 200, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      if (bytes.size() >= 64) bytes[57] = bytes[58] = bytes[59] = 0;  // few buckets
      buckets.read(std::as_bytes(std::span(bytes)));
    }
  }

  TEST_CASE("buckets that the caller counted come back as they were given") {
    HistogramHeader header{};
    header.min = -2;
    header.max = 5;
    header.num = 10.5;
    const std::vector<double> limits = {1, 2, std::numeric_limits<double>::infinity()};
    const std::vector<double> counts = {0.5, 0, 10};
    std::string payload;
    append_raw_histogram_payload(header, limits, counts, payload);
    CHECK(read(payload).limits == limits);
    CHECK(read(payload).counts == counts);
    CHECK(read(payload).header.num == 10.5);
  }

  TEST_CASE("a payload that awaits its device is refused until it is written over") {
    std::string payload;
    append_parked_histogram_payload(77, 1548, payload);
    HistogramBuckets buckets;
    CHECK_FALSE(buckets.read(std::as_bytes(std::span(payload))));
    std::vector<std::uint64_t> counts(1548, UINT64_MAX);
    std::string completed;
    append_histogram_payload(moments_of(0, 1, 1), BinEdges::tensorflow(), counts, 0, completed);
    REQUIRE(completed.size() <= payload.size());
    payload.replace(0, completed.size(), completed);
    REQUIRE(buckets.read(std::as_bytes(std::span(payload))));
    CHECK(buckets.counts.size() == 1549);
  }

  TEST_CASE("the event is a HistogramProto, with fields of zero left out") {
    HistogramBuckets buckets;
    buckets.header = HistogramHeader{};
    buckets.header.min = -1;
    buckets.header.num = 3;
    buckets.limits = {0.5, 1.5};
    buckets.counts = {0, 3};
    Record record{};
    record.step = 300;
    record.wall_time_s = 2.5;
    std::string out;
    append_histogram_event(record, "tag", buckets, out);
    Reader event(testing::tfrecords(out).at(0));
    CHECK(event.varint() == (1 << 3 | 1));
    CHECK(event.fixed<double>() == 2.5);
    CHECK(event.varint() == (2 << 3));
    CHECK(event.varint() == 300);
    CHECK(event.varint() == (5 << 3 | 2));
    Reader summary(event.bytes());
    CHECK(event.at_end());
    CHECK(summary.varint() == (1 << 3 | 2));
    Reader value(summary.bytes());
    CHECK(value.varint() == (1 << 3 | 2));
    CHECK(value.bytes() == "tag");
    CHECK(value.varint() == (5 << 3 | 2));
    Reader histogram(value.bytes());
    CHECK(value.at_end());
    CHECK(histogram.varint() == (1 << 3 | 1));
    CHECK(histogram.fixed<double>() == -1);
    CHECK(histogram.varint() == (3 << 3 | 1));
    CHECK(histogram.fixed<double>() == 3);
    CHECK(histogram.varint() == (6 << 3 | 2));
    CHECK(histogram.bytes().size() == 16);
    CHECK(histogram.varint() == (7 << 3 | 2));
    CHECK(histogram.bytes().size() == 16);
    CHECK(histogram.at_end());
  }
}

}  // namespace
}  // namespace tracelet
