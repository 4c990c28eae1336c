// The event files of a run.
#include "tracelet/event_file_set.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "event_reader.h"
#include "test_support.h"
#include "tracelet/event_file.h"
#include "tracelet/ring_file.h"

namespace tracelet {
namespace {

using testing::FileSizeLimit;
using testing::read_bytes;
using testing::scalar;
using testing::span_of;
using testing::TempDir;

struct Run {
  TempDir dir;
  std::unique_ptr<RingFile> file = RingFile::create(dir.file("ring"), 16);
  EventFileSet set{&file->tags()};

  std::string path(std::uint32_t writer_id) const {
    return dir.file("events." + std::to_string(writer_id));
  }
  void open(std::uint32_t writer_id) { set.open(writer_id, path(writer_id), 1.5); }
};

Record of_writer(std::uint32_t writer_id, Record record) {
  record.writer_id = writer_id;
  return record;
}

// What a writer's file holds when it was given `records`, by the encoder alone.
std::string expected_file(std::uint32_t writer_id, TagTable& tags,
                          const std::vector<Record>& records) {
  std::string bytes = version_event(1.5);
  for (const Record& record : records) {
    if (record.writer_id != writer_id) continue;
    const std::string_view tag = tags.text(record.tag_id);
    append_scalar_event(record, tag, scalar_summary_prefix(tag), bytes);
  }
  return bytes;
}

std::vector<Record> random_records(std::mt19937_64& random, std::uint64_t count,
                                   std::uint32_t writers, std::uint32_t tags) {
  std::vector<Record> records;
  for (std::uint64_t i = 1; i <= count; ++i) {
    const auto tag_id = static_cast<std::uint32_t>(1 + random() % tags);
    Record record = scalar(i, tag_id, static_cast<double>(i) / 8, static_cast<std::int64_t>(i));
    record.writer_id = static_cast<std::uint32_t>(random() % (writers + 1));
    record.flags = random() % 4 == 0 ? kNewStyle : 0;
    records.push_back(record);
  }
  return records;
}

TEST_SUITE("event_file_set") {
  TEST_CASE("each writer's records come to its file, in order; those without a file are skipped") {
    Run run;
    TagTable& tags = run.file->tags();
    const std::uint32_t loss = tags.intern("loss");
    const std::uint32_t lr = tags.intern("lr");
    const std::vector<Record> records = {
        of_writer(7, scalar(1, loss, 0.5, 1)),         of_writer(9, scalar(2, loss, 1.5, 1)),
        of_writer(kNoWriter, scalar(3, loss, 2.5, 1)), of_writer(7, scalar(4, lr, 3.5, 1)),
        of_writer(8, scalar(5, lr, 4.5, 1)),           of_writer(7, scalar(6, loss, 5.5, 2)),
    };
    CHECK(run.set.unopened_writers(span_of(records)) == std::vector<std::uint32_t>{7, 9, 8});
    run.open(7);
    run.open(8);
    CHECK(run.set.unopened_writers(span_of(records)) == std::vector<std::uint32_t>{9});

    CHECK(run.set.write(span_of(records), {}).count == 4);
    CHECK(read_bytes(run.path(7)) == expected_file(7, tags, records));
    CHECK(read_bytes(run.path(8)) == expected_file(8, tags, records));
    CHECK_FALSE(std::filesystem::exists(run.path(9)));
    CHECK(run.set.write({}, {}).count == 0);

    const std::string bytes = read_bytes(run.path(7));
    const auto data = testing::tfrecords(bytes);
    REQUIRE(data.size() == 4);
    CHECK(testing::parse_event(data[0]).file_version == "brain.Event:2");
    CHECK(testing::parse_event(data[2]).tag == "lr");
    CHECK(testing::parse_event(data[2]).simple_value == 3.5f);
    CHECK(testing::parse_event(data[3]).step == 2);
  }

  TEST_CASE("the same records again add nothing, and later ones are added once") {
    Run run;
    const std::uint32_t loss = run.file->tags().intern("loss");
    run.open(1);
    std::vector<Record> records = {scalar(1, loss, 1), scalar(2, loss, 2)};
    CHECK(run.set.write(span_of(records), {}).count == 2);
    const std::string before = read_bytes(run.path(1));
    CHECK(run.set.write(span_of(records), {}).count == 2);
    CHECK(read_bytes(run.path(1)) == before);

    records.push_back(scalar(3, loss, 3));
    CHECK(run.set.write(span_of(records), {}).count == 3);
    CHECK(read_bytes(run.path(1)) == expected_file(1, run.file->tags(), records));
  }

  TEST_CASE("a writer whose file is opened late still gets the records given again") {
    Run run;
    const std::uint32_t loss = run.file->tags().intern("loss");
    const std::vector<Record> records = {scalar(1, loss, 1), of_writer(2, scalar(2, loss, 2)),
                                         scalar(3, loss, 3)};
    run.open(1);
    CHECK(run.set.write(span_of(records), {}).count == 2);
    run.open(2);
    CHECK(run.set.write(span_of(records), {}).count == 3);
    for (const std::uint32_t writer_id : {1U, 2U}) {
      CHECK(read_bytes(run.path(writer_id)) == expected_file(writer_id, run.file->tags(), records));
    }
  }

  TEST_CASE("a file that can't be opened or begun") {
    Run run;
    CHECK_THROWS_AS(run.set.open(1, run.dir.file("no/folder"), 1.5), std::system_error);
    CHECK_THROWS_AS(run.set.open(1, "/dev/full", 1.5), std::system_error);
    const std::vector<Record> records = {scalar(1, run.file->tags().intern("loss"), 1)};
    CHECK(run.set.unopened_writers(span_of(records)) == std::vector<std::uint32_t>{1});
    run.open(1);
    CHECK(run.set.write(span_of(records), {}).count == 1);
  }

  // The disk fills up somewhere in a batch of several buffers (256 KiB each), again and again.
  TEST_CASE("a failed write leaves whole events, and the same records can be given again") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    Run run;
    TagTable& tags = run.file->tags();
    for (int i = 0; i < 20; ++i) tags.intern("some/tag/" + std::to_string(i));
    constexpr std::uint32_t kWriters = 3;
    for (std::uint32_t id = 1; id <= kWriters; ++id) run.open(id);

    const auto records = random_records(random, 50'000, kWriters, 20);
    std::map<std::uint32_t, std::string> expected;
    std::size_t longest = 0;
    for (std::uint32_t id = 1; id <= kWriters; ++id) {
      expected[id] = expected_file(id, tags, records);
      longest = std::max(longest, expected[id].size());
    }
    REQUIRE(longest > 2 * (std::size_t{1} << 18));

    std::size_t limit_bytes = 100;
    int failures = 0;
    for (bool done = false; !done;) {
      try {
        const FileSizeLimit limit(limit_bytes);
        run.set.write(span_of(records), {});
        done = true;
      } catch (const std::system_error& error) {
        ++failures;
        CHECK(error.code() == std::errc::file_too_large);
      }
      for (std::uint32_t id = 1; id <= kWriters; ++id) {
        const std::string bytes = read_bytes(run.path(id));
        INFO("limit ", limit_bytes, ", writer ", id);
        REQUIRE(expected[id].starts_with(bytes));
        REQUIRE_NOTHROW(testing::tfrecords(bytes));
      }
      limit_bytes += 20'000 + random() % 60'000;
    }
    CHECK(failures > 5);
    for (std::uint32_t id = 1; id <= kWriters; ++id)
      CHECK(read_bytes(run.path(id)) == expected[id]);
  }

  TEST_CASE("a writer whose file was deleted or moved gets a new one, with what comes after") {
    Run run;
    run.open(1);
    run.open(2);
    const std::uint32_t tag = run.file->tags().intern("loss");
    std::vector<Record> records = {of_writer(1, scalar(1, tag, 1)),
                                   of_writer(2, scalar(2, tag, 1))};
    CHECK(run.set.write(span_of(records), {}).count == 2);
    CHECK(run.set.unopened_writers(span_of(records)).empty());
    std::filesystem::rename(run.path(1), run.dir.file("moved"));
    std::filesystem::remove(run.path(2));
    CHECK(run.set.unopened_writers(span_of(records)) == std::vector<std::uint32_t>{1, 2});
    for (const std::uint32_t id : {1U, 2U}) run.set.open(id, run.path(id) + ".next", 2.5);
    CHECK(run.set.unopened_writers(span_of(records)).empty());
    records.push_back(of_writer(1, scalar(3, tag, 2)));
    CHECK(run.set.write(span_of(records), {}).count == 3);  // the older ones lie in the moved file
    const auto after = testing::tfrecords(read_bytes(run.path(1) + ".next"));
    CHECK(after.size() == 2);
    CHECK(testing::tfrecords(read_bytes(run.dir.file("moved"))).size() == 2);
    CHECK(read_bytes(run.path(2) + ".next") == version_event(2.5));
  }

  TEST_CASE("after close() no writer has a file") {
    Run run;
    run.open(1);
    run.set.close();
    const std::vector<Record> records = {scalar(1, run.file->tags().intern("loss"), 1)};
    CHECK(run.set.write(span_of(records), {}).count == 0);
    CHECK(read_bytes(run.path(1)) == version_event(1.5));
  }
}

}  // namespace
}  // namespace tracelet
