#include "tracelet/json_lines.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "json_reader.h"
#include "test_support.h"

namespace tracelet {
namespace {

using testing::FileSizeLimit;
using testing::parse_array_lines;
using testing::parse_lines;
using testing::ParsedEvent;
using testing::read_bytes;
using testing::scalar;
using testing::span_of;
using testing::TempDir;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kNoLimit = std::size_t{1} << 40;

struct Encoder : JsonLinesEncoder {
  Encoder() : JsonLinesEncoder("\"t\"") {
    define(1, 1, RecordKind::kScalar, "\"loss\"", "\"train\"");
  }
};

std::string encode_one(Record record) {
  Encoder encoder;
  std::string out;
  const EncodeCounts counts = encoder.encode_lines({&record, 1}, {}, kNoLimit, out);
  REQUIRE(counts.encoded == 1);
  return out;
}

std::string encoded_value(double value) {
  const auto events = parse_lines(encode_one(scalar(1, 1, value)));
  REQUIRE(events.size() == 1);
  return events[0].value;
}

TEST_SUITE("json_lines") {
  TEST_CASE("the line of a point, to the byte") {
    Record record = scalar(1, 1, 0.25, 7);
    record.wall_time_s = 1700000000.5;
    CHECK(encode_one(record) ==
          R"({"type":"training_stats_scalar","task":"t","iter":7,"metric":"loss",)"
          R"("variant":"train","value":0.25,"timestamp":1700000000500})");
  }

  TEST_CASE("values are the shortest decimals that read back as the same double") {
    CHECK(encoded_value(0.1) == "0.1");
    CHECK(encoded_value(3) == "3");
    CHECK(encoded_value(0.0) == "0.0");
    CHECK(encoded_value(-0.0) == "-0.0");
    CHECK(encoded_value(1e22) == "1e+22");
    CHECK(encoded_value(5e-324) == "5e-324");
    CHECK(encoded_value(-2.2250738585072014e-308) == "-2.2250738585072014e-308");
    CHECK(encoded_value(0.1f) == "0.10000000149011612");
    CHECK(std::strtod(encoded_value(std::numeric_limits<float>::max()).c_str(), nullptr) ==
          std::numeric_limits<float>::max());

    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    std::vector<Record> records;
    while (records.size() < 100'000) {
      const std::uint64_t bits = random();
      double value;
      std::memcpy(&value, &bits, sizeof(value));
      if (std::isfinite(static_cast<float>(value))) records.push_back(scalar(1, 1, value));
    }
    Encoder encoder;
    std::string out;
    CHECK(encoder.encode_lines(span_of(records), {}, kNoLimit, out).encoded == records.size());
    const auto events = parse_lines(out);
    REQUIRE(events.size() == records.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      const double value = std::strtod(events[i].value.c_str(), nullptr);
      REQUIRE(std::memcmp(&value, &records[i].value, sizeof(value)) == 0);
    }
  }

  TEST_CASE("steps and timestamps at their extremes") {
    for (const std::int64_t step : {std::numeric_limits<std::int64_t>::min(), std::int64_t{-1},
                                    std::int64_t{0}, std::numeric_limits<std::int64_t>::max()}) {
      // The longest numbers there are, all on one line.
      Record record = scalar(1, 1, -2.2250738585072014e-308, step);
      record.wall_time_s = 253402300799.5;  // the end of year 9999
      const auto events = parse_lines(encode_one(record));
      REQUIRE(events.size() == 1);
      CHECK(events[0].step == step);
      CHECK(events[0].timestamp_ms == 253402300799500);
    }
    for (const double wall_time_s : {kNan, kInfinity, -kInfinity, -1.0, 1e300, 253402300800.0}) {
      Record record = scalar(1, 1, 1);
      record.wall_time_s = wall_time_s;
      CHECK(parse_lines(encode_one(record))[0].timestamp_ms == 0);
    }
  }

  TEST_CASE("what the server would refuse is set aside, with one notice a series and reason") {
    Encoder encoder;
    encoder.define(1, 2, RecordKind::kScalar, "\"acc\"", "\"train\"");
    constexpr double kMax = std::numeric_limits<float>::max();
    // The first double that rounds to infinity as a float: half a unit above the largest one.
    const double first_beyond = kMax + std::ldexp(1, 103);
    const std::vector<Record> records = {
        scalar(1, 1, kNan, 10),        scalar(2, 1, kInfinity, 11),
        scalar(3, 1, 1e39, 12),        scalar(4, 2, -kInfinity, 13),
        scalar(5, 1, -1e39, 14),       scalar(6, 1, kMax, 15),
        scalar(7, 1, -kMax, 16),       scalar(8, 1, std::nextafter(first_beyond, 0), 17),
        scalar(9, 2, first_beyond, 18)};
    std::string out;
    const EncodeCounts counts = encoder.encode_lines(span_of(records), {}, kNoLimit, out);
    CHECK(counts.consumed == 9);
    CHECK(counts.encoded == 3);
    CHECK(counts.not_finite == 3);
    CHECK(counts.beyond_float32 == 3);
    const auto events = parse_lines(out);
    REQUIRE(events.size() == 3);
    CHECK(events[0].step == 15);
    CHECK(events[1].step == 16);
    CHECK(events[2].step == 17);

    const auto notices = encoder.take_notices();
    REQUIRE(notices.size() == 4);
    const auto is = [&](std::size_t i, std::uint32_t tag_id, std::int64_t step, SetAside reason) {
      return notices[i].writer_id == 1 && notices[i].tag_id == tag_id && notices[i].step == step &&
             notices[i].reason == reason;
    };
    CHECK(is(0, 1, 10, SetAside::kNotFinite));
    CHECK(std::isnan(notices[0].value));
    CHECK(is(1, 1, 12, SetAside::kBeyondFloat32));
    CHECK(notices[1].value == 1e39);
    CHECK(is(2, 2, 13, SetAside::kNotFinite));
    CHECK(is(3, 2, 18, SetAside::kBeyondFloat32));

    CHECK(encoder.take_notices().empty());
    encoder.encode_lines(span_of(records), {}, kNoLimit, out);
    CHECK(encoder.take_notices().empty());
  }

  TEST_CASE("encoding stops after the line that reaches the limit") {
    std::vector<Record> records;
    for (std::int64_t step = 100; step < 1000; ++step) records.push_back(scalar(1, 1, 0.5, step));
    const std::size_t line = encode_one(records[0]).size();
    for (const std::size_t limit : {std::size_t{1}, line - 1, line, line + 1, 10 * line}) {
      Encoder encoder;
      std::string all;
      std::size_t done = 0;
      while (done < records.size()) {
        std::string out;
        const EncodeCounts counts =
            encoder.encode_lines({records.data() + done, records.size() - done}, {}, limit, out);
        REQUIRE(counts.consumed == counts.encoded);
        REQUIRE(parse_lines(out).size() == counts.consumed);
        const bool is_last = done + counts.consumed == records.size();
        REQUIRE((is_last || out.size() >= limit));
        // Without its last line it was below the limit.
        REQUIRE((counts.encoded == 1 || out.size() - line - 1 < limit));
        if (!all.empty()) all += '\n';
        all += out;
        done += counts.consumed;
      }
      std::string whole;
      CHECK(encoder.encode_lines(span_of(records), {}, kNoLimit, whole).encoded == 900);
      CHECK(all == whole);
    }
    std::string full = "x";
    CHECK(Encoder().encode_lines(span_of(records), {}, 1, full).consumed == 0);
    CHECK(full == "x");
  }

  TEST_CASE("series are told apart by writer and tag") {
    JsonLinesEncoder encoder("\"t\"");
    std::vector<Record> records;
    for (std::uint64_t i = 0; i < 40; ++i) {
      Record record = scalar(i + 1, static_cast<std::uint32_t>(1 + i % 4 / 2), 1);
      record.writer_id = static_cast<std::uint32_t>(i % 3);
      record.step = static_cast<std::int64_t>(i);
      records.push_back(record);
    }
    const auto undefined = encoder.undefined_series(span_of(records));
    REQUIRE(undefined.size() == 6);
    for (const Record& record : undefined) {
      encoder.define(record.writer_id, record.tag_id, RecordKind::kScalar,
                     "\"tag" + std::to_string(record.tag_id) + "\"",
                     "\"writer" + std::to_string(record.writer_id) + "\"");
    }
    CHECK(encoder.undefined_series(span_of(records)).empty());

    std::string out;
    encoder.encode_lines(span_of(records), {}, kNoLimit, out);
    const auto events = parse_lines(out);
    REQUIRE(events.size() == records.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      CHECK(events[i].step == static_cast<std::int64_t>(i));
      CHECK(events[i].metric == "tag" + std::to_string(records[i].tag_id));
      CHECK(events[i].variant == "writer" + std::to_string(records[i].writer_id));
    }
  }

  TEST_CASE("an offline session's lines: whole arrays of about the length asked for") {
    TempDir dir;
    AppendFile file(dir.file("metrics.jsonl"));
    std::vector<Record> records;
    for (std::int64_t i = 0; i < 1000; ++i)
      records.push_back(scalar(1, 1, i % 10 == 3 ? kNan : 1, i));
    Encoder encoder;
    EncodeCounts counts;
    constexpr std::size_t kLineBytes = 2000;
    encoder.append_array_lines(span_of(records), {}, kLineBytes, file, counts);
    encoder.append_array_lines({&records[3], 1}, {}, kLineBytes, file, counts);  // nothing: no line
    encoder.append_array_lines({&records[4], 1}, {}, kLineBytes, file, counts);
    CHECK(counts.consumed == 1002);
    CHECK(counts.encoded == 901);
    CHECK(counts.not_finite == 101);

    const std::string bytes = read_bytes(file.path());
    const auto lines = parse_array_lines(bytes);
    CHECK(lines.size() > 50);
    std::size_t start = 0;
    std::vector<std::int64_t> steps;
    for (const auto& line : lines) {
      const std::size_t end = bytes.find('\n', start);
      CHECK(end - start < kLineBytes + 300);
      start = end + 1;
      for (const ParsedEvent& event : line) steps.push_back(event.step);
    }
    std::vector<std::int64_t> expected;
    for (std::int64_t i = 0; i < 1000; ++i) {
      if (i % 10 != 3) expected.push_back(i);
    }
    expected.push_back(4);
    CHECK(steps == expected);
  }

  TEST_CASE("a failed write counts what is in the file, and the rest can be given again") {
    TempDir dir;
    AppendFile file(dir.file("metrics.jsonl"));
    std::vector<Record> records;
    for (std::int64_t i = 0; i < 500; ++i)
      records.push_back(scalar(1, 1, i % 7 == 0 ? 1e39 : 1, i));
    Encoder encoder;
    EncodeCounts counts;
    RecordSpan rest = span_of(records);
    std::size_t limit_bytes = 5'000;
    int failures = 0;
    while (rest.size > 0) {
      counts = {};
      try {
        const FileSizeLimit limit(limit_bytes);
        encoder.append_array_lines(rest, {}, 1000, file, counts);
      } catch (const std::system_error&) {
        ++failures;
        limit_bytes += 7'000;
      }
      CHECK(counts.consumed == counts.encoded + counts.beyond_float32);
      rest = {rest.data + counts.consumed, rest.size - counts.consumed};
    }
    CHECK(failures > 3);
    std::int64_t next = 0;
    for (const auto& line : parse_array_lines(read_bytes(file.path()))) {
      for (const ParsedEvent& event : line) {
        if (next % 7 == 0) ++next;
        CHECK(event.step == next++);
      }
    }
    CHECK(next == 500);
    CHECK(encoder.take_notices().size() == 1);
  }
}

}  // namespace
}  // namespace tracelet
