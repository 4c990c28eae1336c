#include "tracelet/fold.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "test_support.h"

namespace tracelet {
namespace {

using testing::scalar;
using testing::span_of;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr FoldRule kMeanOf10Steps{Reduce::kMean, 10, 0};
constexpr FoldRule kLastOf10Steps{Reduce::kLast, 10, 0};
constexpr FoldRule kMinMaxOf10Steps{Reduce::kMinMax, 10, 0};

// A fold of tag 1 under a rule, and what came out of it.
struct Folded {
  explicit Folded(FoldRule rule) { fold.define(1, rule); }

  // Points of tag 1, each (step, value).
  void put(const std::vector<std::pair<std::int64_t, double>>& points) {
    std::vector<Record> records;
    for (const auto& [step, value] : points) {
      records.push_back(scalar(++put_in, 1, value, step));
      records.back().wall_time_s = static_cast<double>(put_in);
    }
    fold.apply(span_of(records), out);
    check_account();
  }
  void flush() {
    fold.flush(out);
    CHECK(fold.held() == 0);
    check_account();
  }
  void check_account() const { CHECK(out.size() + fold.folded() + fold.held() == put_in); }
  std::vector<std::pair<std::int64_t, double>> points() const {
    std::vector<std::pair<std::int64_t, double>> points;
    for (const Record& record : out) points.emplace_back(record.step, record.value);
    return points;
  }

  Fold fold;
  std::vector<Record> out;
  std::uint64_t put_in = 0;
};
using Points = std::vector<std::pair<std::int64_t, double>>;

// One tag's fold, done plainly: it keeps the points of a window and reduces them at its end.
struct KeepingFold {
  explicit KeepingFold(FoldRule its_rule) : rule(its_rule) {}

  double window(const Record& record) const {
    if (rule.every_steps == 0) return std::floor(record.wall_time_s / rule.every_s);
    return std::floor(static_cast<double>(record.step) / static_cast<double>(rule.every_steps));
  }
  void put(const Record& record) {
    const bool folds = rule.every_steps > 0 || rule.every_s > 0;
    if (!folds || std::isnan(record.value)) {
      out.push_back(record);
      return;
    }
    if (!open.empty() && window(open[0]) != window(record)) close();
    open.push_back(record);
  }
  void close() {
    if (open.empty()) return;
    Record mean = open.back();
    long double sum = 0;
    std::size_t least = 0;
    std::size_t greatest = 0;
    for (std::size_t i = 0; i < open.size(); ++i) {
      sum += static_cast<long double>(open[i].value);
      if (open[i].value < open[least].value) least = i;
      if (open[i].value > open[greatest].value) greatest = i;
    }
    mean.value = static_cast<double>(sum / static_cast<long double>(open.size()));
    if (rule.reduce == Reduce::kMean) out.push_back(mean);
    if (rule.reduce == Reduce::kLast) out.push_back(open.back());
    if (rule.reduce == Reduce::kMinMax) {
      out.push_back(open[std::min(least, greatest)]);
      if (least != greatest) out.push_back(open[std::max(least, greatest)]);
    }
    open.clear();
  }

  FoldRule rule;
  std::vector<Record> open;
  std::vector<Record> out;
};

FoldRule random_rule(std::mt19937_64& random) {
  FoldRule rule;
  rule.reduce = static_cast<Reduce>(random() % 3);
  if (random() % 2 == 0) {
    rule.every_steps = static_cast<std::int64_t>(random() % 20);
  } else {
    rule.every_s = static_cast<double>(random() % 8) / 4;
  }
  return rule;
}

void check_same(const std::vector<Record>& got, const std::vector<Record>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    REQUIRE(got[i].sequence == expected[i].sequence);
    REQUIRE(got[i].step == expected[i].step);
    if (std::isnan(expected[i].value)) {
      REQUIRE(std::isnan(got[i].value));
    } else {
      REQUIRE(got[i].value == doctest::Approx(expected[i].value).epsilon(1e-12));
    }
  }
}

TEST_SUITE("fold") {
  TEST_CASE("the mean of a window stands at its last point's step and time") {
    Folded folded(kMeanOf10Steps);
    folded.put({{0, 1}, {4, 2}, {9, 6}});
    CHECK(folded.out.empty());
    CHECK(folded.fold.held() == 3);
    CHECK(folded.fold.folded() == 0);
    folded.put({{10, 100}});
    CHECK(folded.points() == Points{{9, 3}});
    CHECK(folded.out[0].wall_time_s == 3);
    CHECK(folded.out[0].sequence == 3);
    CHECK(folded.fold.held() == 1);
    CHECK(folded.fold.folded() == 2);
    folded.flush();
    CHECK(folded.points() == Points{{9, 3}, {10, 100}});
    folded.flush();
    CHECK(folded.out.size() == 2);
  }

  TEST_CASE("last") {
    Folded folded(kLastOf10Steps);
    folded.put({{0, 1}, {9, 6}, {4, 2}, {19, 7}, {20, 8}});
    folded.flush();
    CHECK(folded.points() == Points{{4, 2}, {19, 7}, {20, 8}});
  }

  TEST_CASE("min_max gives both points as they were, in the order they came in") {
    Folded folded(kMinMaxOf10Steps);
    folded.put({{0, 5}, {1, 9}, {2, 1}, {3, 4}});      // greatest first
    folded.put({{10, 5}, {11, 1}, {12, 9}, {13, 1}});  // least first; of equals the first
    folded.put({{20, 5}, {21, 5}});                    // one value: one point
    folded.put({{30, 7}});
    folded.flush();
    CHECK(folded.points() == Points{{1, 9}, {2, 1}, {11, 1}, {12, 9}, {20, 5}, {30, 7}});
  }

  TEST_CASE("windows lie at multiples of their length, below zero too") {
    Folded folded(kLastOf10Steps);
    folded.put({{-21, 1}, {-20, 2}, {-11, 3}, {-10, 4}, {-1, 5}, {0, 6}, {9, 7}, {10, 8}});
    folded.flush();
    CHECK(folded.points() == Points{{-21, 1}, {-11, 3}, {-1, 5}, {9, 7}, {10, 8}});

    constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
    constexpr std::int64_t kGreatest = std::numeric_limits<std::int64_t>::max();
    Folded extremes(kLastOf10Steps);
    extremes.put({{kLeast, 1}, {kLeast + 1, 2}, {kGreatest - 1, 3}, {kGreatest, 4}});
    extremes.flush();
    CHECK(extremes.points() == Points{{kLeast + 1, 2}, {kGreatest, 4}});
  }

  TEST_CASE("a step that goes back to an earlier window ends the one that is open") {
    Folded folded(kMeanOf10Steps);
    folded.put({{15, 1}, {5, 10}, {6, 20}, {16, 3}, {17, 5}});
    folded.flush();
    CHECK(folded.points() == Points{{15, 1}, {6, 15}, {17, 4}});
  }

  TEST_CASE("windows of wall time") {
    Folded folded(FoldRule{Reduce::kMean, 0, 2.5});
    // put() sets the wall times 1, 2, 3 … s: windows [0, 2.5), [2.5, 5), [5, 7.5)
    folded.put({{0, 1}, {0, 3}, {0, 10}, {0, 20}, {0, 5}});
    folded.flush();
    CHECK(folded.points() == Points{{0, 2}, {0, 15}, {0, 5}});
    CHECK(folded.out[0].wall_time_s == 2);
  }

  TEST_CASE("points that are not finite pass through at once and enter no window") {
    for (const double value : {kNan, std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity()}) {
      Folded folded(kMeanOf10Steps);
      folded.put({{0, 1}, {1, value}, {2, 3}});
      REQUIRE(folded.out.size() == 1);
      CHECK(folded.out[0].step == 1);
      folded.flush();
      REQUIRE(folded.out.size() == 2);
      CHECK(folded.out[1].value == 2);
    }
  }

  TEST_CASE("the mean of values whose sum is beyond a double") {
    constexpr double kMax = std::numeric_limits<double>::max();
    Folded folded(kMeanOf10Steps);
    folded.put({{0, kMax}, {1, kMax}, {2, kMax}, {10, kMax}, {11, -kMax}, {20, 0.1}, {21, 0.1}});
    folded.flush();
    CHECK(folded.points() == Points{{2, kMax}, {11, 0}, {21, 0.1}});
  }

  TEST_CASE("tags without a rule pass through, and are named once until they are defined") {
    Fold fold;
    fold.define(2, kMeanOf10Steps);
    const std::vector<Record> records = {scalar(1, 5, 1), scalar(2, 2, 1), scalar(3, 3, 1),
                                         scalar(4, 5, 1), scalar(5, 3, 1), scalar(6, 2, 2)};
    CHECK(fold.undefined_tags(span_of(records)) == std::vector<std::uint32_t>{3, 5});
    fold.define(5);
    CHECK(fold.undefined_tags(span_of(records)) == std::vector<std::uint32_t>{3});

    std::vector<Record> out;
    fold.apply(span_of(records), out);
    std::vector<std::uint64_t> sequences;
    for (const Record& record : out) sequences.push_back(record.sequence);
    CHECK(sequences == std::vector<std::uint64_t>{1, 3, 4, 5});
    CHECK(fold.held() == 2);
    CHECK(fold.folded() == 0);
  }

  TEST_CASE("a tag has a window of its own in each writer") {
    Fold fold;
    fold.define(1, kMeanOf10Steps);
    std::vector<Record> records = {scalar(1, 1, 1), scalar(2, 1, 10), scalar(3, 1, 3)};
    records[1].writer_id = 2;
    std::vector<Record> out;
    fold.apply(span_of(records), out);
    fold.flush(out);
    std::map<std::uint32_t, double> mean_of_writer;
    for (const Record& record : out) mean_of_writer[record.writer_id] = record.value;
    CHECK(mean_of_writer == std::map<std::uint32_t, double>{{1, 2}, {2, 10}});
  }

  TEST_CASE("any points under any rules: what comes out, and the account of it") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    constexpr std::uint32_t kTags = 6;
    for (int tries = 0; tries < testing::repeated(300); ++tries) {
      Fold fold;
      std::vector<KeepingFold> expected;
      for (std::uint32_t tag_id = 0; tag_id < kTags; ++tag_id) {
        expected.emplace_back(random_rule(random));
        fold.define(tag_id, expected.back().rule);
      }
      std::vector<Record> out;
      std::uint64_t sequence = 0;
      for (int batch = 0; batch < 10; ++batch) {
        std::vector<Record> records;
        for (std::uint64_t i = random() % 50; i > 0; --i) {
          records.push_back(scalar(++sequence, static_cast<std::uint32_t>(random() % kTags),
                                   static_cast<double>(random() % 9) - 4));
          records.back().step = static_cast<std::int64_t>(random() % 60) - 30;
          records.back().wall_time_s = static_cast<double>(sequence) / 7;
          if (random() % 30 == 0) records.back().value = kNan;
          expected[records.back().tag_id].put(records.back());
        }
        fold.apply(span_of(records), out);
        std::size_t held = 0;
        for (const KeepingFold& each : expected) held += each.open.size();
        REQUIRE(fold.held() == held);
        REQUIRE(out.size() + fold.folded() + fold.held() == sequence);
      }
      fold.flush(out);
      REQUIRE(fold.held() == 0);
      REQUIRE(out.size() + fold.folded() == sequence);

      for (std::uint32_t tag_id = 0; tag_id < kTags; ++tag_id) {
        std::vector<Record> got;
        for (const Record& record : out) {
          if (record.tag_id == tag_id) got.push_back(record);
        }
        expected[tag_id].close();
        check_same(got, expected[tag_id].out);
      }
    }
  }
}

}  // namespace
}  // namespace tracelet
