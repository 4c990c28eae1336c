#include "tracelet/series_summary.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "test_support.h"

namespace tracelet {
namespace {

using testing::scalar;
using testing::span_of;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST_SUITE("series_summary") {
  TEST_CASE("last, least, greatest and count of each tag of each writer") {
    SeriesSummaries summaries;
    std::vector<Record> records = {scalar(1, 7, 2.0, 10), scalar(2, 7, -1.0, 11),
                                   scalar(3, 8, 5.0, 12), scalar(4, 7, 0.5, 9)};
    records.push_back(scalar(5, 7, 99.0, 1));
    records.back().writer_id = 3;
    summaries.observe(span_of(records), 0);
    const auto found = summaries.read();
    REQUIRE(found.size() == 3);
    CHECK(found[0].tag_id == 7);
    CHECK(found[0].last == 0.5);
    CHECK(found[0].least == -1.0);
    CHECK(found[0].greatest == 2.0);
    CHECK(found[0].points == 3);
    CHECK(found[0].last_step == 9);
    CHECK(found[1].tag_id == 8);
    CHECK(found[2].writer_id == 3);
    CHECK(found[2].last == 99.0);
  }

  TEST_CASE("what is not finite is the last value, never the least or greatest") {
    SeriesSummaries summaries;
    summaries.observe(span_of(std::vector{scalar(1, 1, kNan, 0), scalar(2, 1, kInfinity, 1)}), 0);
    CHECK(std::isnan(summaries.read()[0].least));
    CHECK(std::isnan(summaries.read()[0].greatest));
    summaries.observe(span_of(std::vector{scalar(3, 1, 4.0, 2), scalar(4, 1, kNan, 3),
                                          scalar(5, 1, 3.0, 4), scalar(6, 1, -kInfinity, 5)}),
                      2);
    CHECK(summaries.read()[0].least == 3.0);
    CHECK(summaries.read()[0].greatest == 4.0);
    CHECK(summaries.read()[0].last == -kInfinity);
    CHECK(summaries.read()[0].points == 6);
  }

  TEST_CASE("a record that comes again, one without a value and no scalar are not counted") {
    SeriesSummaries summaries;
    std::vector<Record> records = {scalar(1, 1, 1.0, 0), scalar(2, 1, 2.0, 1), scalar(3, 1, 3.0, 2),
                                   scalar(4, 1, 4.0, 3)};
    records[2].flags = kAwaitsDevice;
    records[3].kind = RecordKind::kSkipped;
    summaries.observe(span_of(records), 1);
    CHECK(summaries.read()[0].points == 1);
    CHECK(summaries.read()[0].last == 2.0);
  }

  TEST_CASE("series that share a place are told apart, and too many are left out") {
    SeriesSummaries summaries;
    std::uint64_t sequence = 0;
    for (int lap = 0; lap < 2; ++lap) {
      for (std::uint32_t tag = 1; tag <= SeriesSummaries::kMostSeries + 5; ++tag) {
        const std::vector records = {scalar(++sequence, tag, tag, lap)};
        summaries.observe(span_of(records), 0);
      }
    }
    const auto found = summaries.read();
    REQUIRE(found.size() == SeriesSummaries::kMostSeries);
    bool is_right = true;
    for (const SeriesSummary& each : found) {
      is_right &= each.points == 2 && each.last == each.tag_id && each.last_step == 1;
    }
    CHECK(is_right);
  }

  TEST_CASE("who reads while another observes sees whole series") {
    constexpr std::uint64_t kBatches = 2000;
    SeriesSummaries summaries;
    std::thread observer([&summaries] {
      for (std::uint64_t batch = 1; batch <= kBatches; ++batch) {
        const auto tag = static_cast<std::uint32_t>(batch % 50 + 1);
        const std::vector records = {
            scalar(2 * batch - 1, tag, static_cast<double>(batch), 0),
            scalar(2 * batch, tag, -static_cast<double>(batch), static_cast<std::int64_t>(batch))};
        summaries.observe(span_of(records), 0);
      }
    });
    bool is_whole = true;
    std::uint64_t points = 0;
    while (points < 2 * kBatches) {
      points = 0;
      for (const SeriesSummary& each : summaries.read()) {
        points += each.points;
        is_whole &= each.points % 2 == 0 && each.greatest == -each.last &&
                    each.least == each.last && each.last == -static_cast<double>(each.last_step);
      }
    }
    observer.join();
    CHECK(is_whole);
  }
}

}  // namespace
}  // namespace tracelet
