#include "tracelet/event_reader.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <system_error>

#include "test_support.h"
#include "tracelet/event_file.h"

namespace tracelet {
namespace {

std::string scalar_event(const std::string& tag, std::int64_t step, double value) {
  Record record{};
  record.kind = RecordKind::kScalar;
  record.step = step;
  record.value = value;
  std::string out;
  append_scalar_event(record, tag, scalar_summary_prefix(tag), out);
  return out;
}

struct EventFile {
  explicit EventFile(const std::string& bytes)
      : path(std::filesystem::temp_directory_path() /
             ("event_reader_" + std::to_string(testing::fresh_seed()))) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  ~EventFile() { std::filesystem::remove(path); }
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  std::filesystem::path path;
};

TEST_SUITE("event_reader") {
  TEST_CASE("tags in turn and out of turn are kept apart, each in its order") {
    std::string bytes = version_event(1.5);
    for (int step = 0; step < 100; ++step) {
      bytes += scalar_event("a", step, step);
      if (step % 3 == 0) bytes += scalar_event("b", step, step + 0.5);
      bytes += scalar_event("c", step, -step);
    }
    const EventFile file(bytes);
    EventReader reader;
    CHECK(reader.read_file(file.path.string(), 0) == bytes.size());
    REQUIRE(reader.tags().size() == 3);
    CHECK(reader.damaged_records() == 0);
    CHECK(reader.tags()[0].scalars.steps.size() == 100);
    REQUIRE(reader.tags()[1].tag == "b");
    CHECK(reader.tags()[1].scalars.values.at(33) == 99.5);
    CHECK(reader.tags()[2].scalars.values.at(99) == -99);
  }

  TEST_CASE("a record longer than a chunk is read") {
    const std::string tag(5 << 20, 'x');
    const std::string bytes = scalar_event("a", 1, 1) + scalar_event(tag, 2, 2);
    const EventFile file(bytes);
    EventReader reader;
    CHECK(reader.read_file(file.path.string(), 0) == bytes.size());
    REQUIRE(reader.tags().size() == 2);
    CHECK(reader.tags()[1].tag == tag);
  }

  TEST_CASE("bytes flipped at random lose no sound record behind them, and read nothing outside") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    std::string records;
    for (int step = 0; step < 20; ++step) records += scalar_event("a", step, step);
    for (int round = 0; round < 200; ++round) {
      std::string bytes = records;
      for (std::uint64_t flips = random() % 20; flips > 0; --flips) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
      const EventFile file(bytes + records);
      EventReader reader;
      reader.read_file(file.path.string(), 0);
      std::size_t found = 0;
      for (const TagEvents& each : reader.tags()) {
        if (each.tag == "a") found = each.scalars.steps.size();
      }
      REQUIRE(found >= 20);
    }
  }

  TEST_CASE("a file that is not there is an error with its name") {
    EventReader reader;
    CHECK_THROWS_AS(reader.read_file("/nowhere/file", 0), std::system_error);
  }
}

}  // namespace
}  // namespace tracelet
