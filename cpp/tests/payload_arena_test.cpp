// The payload arena: payloads whole and in order, under several producers, full, across laps, and
// after a producer died.
#include "tracelet/payload_arena.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "ring_support.h"
#include "test_support.h"
#include "tracelet/ring_file.h"

namespace tracelet {
namespace {

using testing::end_of_child;
using testing::kVeryLong;
using testing::start_child;
using testing::TempDir;

constexpr std::uint64_t kCapacity = 64;

// A payload whose every byte follows from its point's tag and step.
std::string payload_of(std::uint32_t tag_id, std::int64_t step, std::size_t size_bytes) {
  std::string payload(size_bytes, '\0');
  for (std::size_t i = 0; i < size_bytes; ++i) {
    payload[i] = static_cast<char>(tag_id * 31 + static_cast<std::uint32_t>(step) * 7 + i);
  }
  return payload;
}

std::size_t size_of(std::uint32_t tag_id, std::int64_t step) {
  return 1 + (tag_id * 7919 + static_cast<std::size_t>(step) * 104729) % 9000;
}

bool push(RingFile& file, std::uint32_t tag_id, std::int64_t step, std::size_t size_bytes) {
  const std::string payload = payload_of(tag_id, step, size_bytes);
  const Point point{0, step, 1.0, tag_id, 1, RecordKind::kHistogram, 0};
  return file.payloads().try_push(file.ring(), point, std::as_bytes(std::span(payload)));
}

bool is_whole(RingFile& file, const Record& record, std::size_t size_bytes) {
  const auto payload = file.payloads().span().of(record);
  const std::string expected = payload_of(record.tag_id, record.step, size_bytes);
  return payload.size() == expected.size() &&
         std::memcmp(payload.data(), expected.data(), expected.size()) == 0;
}

std::size_t take(RingFile& file, std::size_t limit = kCapacity) {
  const RecordSpan records = file.ring().committed(limit);
  file.payloads().give_back(records);
  file.ring().give_back(records.size);
  return records.size;
}

TEST_SUITE("payload_arena") {
  TEST_CASE("payloads of all sizes come back whole, over many laps") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    std::int64_t taken = 0;
    for (std::int64_t step = 0; step < testing::repeated(20'000); ++step) {
      const std::size_t size_bytes = size_of(1, step);
      while (!push(*file, 1, step, size_bytes)) {
        const RecordSpan records = file->ring().committed(5);
        REQUIRE(records.size > 0);
        for (const Record& record : records) {
          REQUIRE(record.step == taken++);
          REQUIRE(is_whole(*file, record, size_of(1, record.step)));
        }
        take(*file, 5);
      }
    }
  }

  TEST_CASE("scalars between payloads take no place in the arena") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    for (int lap = 0; lap < 100; ++lap) {
      REQUIRE(push(*file, 1, 1, 60'000));
      for (std::int64_t step = 0; step < 20; ++step) REQUIRE(testing::push(file->ring(), 2, step));
      const RecordSpan records = file->ring().committed(kCapacity);
      REQUIRE(records.size >= 1);
      for (const Record& record : records) {
        if (record.kind == RecordKind::kScalar) REQUIRE(record.payload_size == 0);
      }
      while (take(*file) > 0) {
      }
    }
  }

  TEST_CASE("a full arena refuses, wakes the consumer, and claims no slot") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    REQUIRE(push(*file, 1, 1, 40'000));
    CHECK_FALSE(push(*file, 1, 2, 40'000));
    CHECK(file->ring().head() == 1);
    file->ring().wait_for_records(kVeryLong);  // returns at once
    CHECK(push(*file, 1, 3, 20'000));
    CHECK(take(*file) == 2);
    CHECK(push(*file, 1, 4, file->payloads().size_bytes()));
  }

  TEST_CASE("a full ring refuses, and no place is lost by it") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), 16);
    for (std::int64_t step = 0; step < 16; ++step) REQUIRE(testing::push(file->ring(), 1, step));
    CHECK_FALSE(push(*file, 1, 1, 100));
    CHECK(take(*file) == 16);
    CHECK(push(*file, 1, 1, file->payloads().size_bytes()));
  }

  TEST_CASE("a producer that waits for room goes on when payloads are given back") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    REQUIRE(push(*file, 1, 1, 60'000));
    std::thread consumer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      take(*file);
    });
    CHECK(file->payloads().wait_for_room(file->ring(), 60'000, kVeryLong));
    consumer.join();
    CHECK(push(*file, 1, 2, 60'000));
  }

  TEST_CASE("payloads of several threads lie in the order of their records") {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    constexpr std::uint32_t kThreads = 4;
    const std::int64_t each = testing::repeated(5'000);
    std::vector<std::thread> producers;
    for (std::uint32_t tag_id = 1; tag_id <= kThreads; ++tag_id) {
      producers.emplace_back([&, tag_id] {
        for (std::int64_t step = 0; step < each; ++step) {
          const std::size_t size_bytes = size_of(tag_id, step);
          while (!push(*file, tag_id, step, size_bytes)) {
            file->payloads().wait_for_room(file->ring(), size_bytes, std::chrono::milliseconds(5));
          }
        }
      });
    }
    std::vector<std::int64_t> next(kThreads + 1, 0);
    for (std::int64_t count = 0; count < each * kThreads;) {
      const RecordSpan records = file->ring().committed(kCapacity);
      for (const Record& record : records) {
        REQUIRE(record.step == next[record.tag_id]++);
        REQUIRE(is_whole(*file, record, size_of(record.tag_id, record.step)));
      }
      count += static_cast<std::int64_t>(records.size);
      file->payloads().give_back(records);
      file->ring().give_back(records.size);
    }
    for (std::thread& producer : producers) producer.join();
  }

  TEST_CASE("forked producers share the arena, and one that is killed holds no lock for ever" *
            doctest::skip(testing::kThreadSanitizer)) {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), kCapacity);
    const auto child = start_child([&] {
      for (std::int64_t step = 0; step < 5; ++step) push(*file, 7, step, 500);
      return 0;
    });
    REQUIRE(end_of_child(child) == 0);
    const RecordSpan records = file->ring().committed(kCapacity);
    REQUIRE(records.size == 5);
    for (const Record& record : records) CHECK(is_whole(*file, record, 500));
    take(*file);
    // A holder that died: its pid stays in the lock's word.
    auto* header =
        reinterpret_cast<RingFileHeader*>(const_cast<std::byte*>(file->payloads().span().data) -
                                          kCapacity * sizeof(Record) - kRingFileHeaderBytes);
    header->payloads.lock_pid.store(static_cast<std::uint32_t>(child));
    CHECK(push(*file, 1, 1, 100));
  }

  TEST_CASE("a record that refers to bytes outside has no payload") {
    const std::byte bytes[8] = {};
    const PayloadSpan span{bytes, sizeof(bytes)};
    Record record{};
    record.payload_offset = 4;
    record.payload_size = 4;
    CHECK(span.of(record).size() == 4);
    record.payload_size = 5;
    CHECK(span.of(record).empty());
    record.payload_offset = UINT64_MAX;
    CHECK(span.of(record).empty());
  }
}

}  // namespace
}  // namespace tracelet
