#include "tracelet/stored_ring.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <set>
#include <string>
#include <system_error>

#include "ring_support.h"
#include "test_support.h"
#include "tracelet/event_file.h"
#include "tracelet/event_file_set.h"
#include "tracelet/file_ledger.h"
#include "tracelet/fold.h"
#include "tracelet/json_lines.h"

namespace tracelet {
namespace {

using testing::push;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

constexpr std::uint64_t kCapacity = 64;

std::string payload_of(std::int64_t step) {
  return "event " + std::to_string(step) + std::string(static_cast<std::size_t>(step) * 13, '.');
}

// The bytes of a ring in which a process died: 100 records, the first 50 taken out; each fifth has
// a payload.
std::string dead_ring() {
  TempDir dir;
  const std::string path = dir.file("ring");
  {
    const auto file = RingFile::create(path, kCapacity);
    file->tags().intern("loss");
    file->tags().intern("runs/a");
    for (std::int64_t step = 0; step < 100; ++step) {
      Point point{.value = static_cast<double>(step), .step = step, .tag_id = 1, .writer_id = 2};
      if (step % 5 == 0) {
        point.kind = RecordKind::kEvent;
        const std::string payload = payload_of(step);
        REQUIRE(file->payloads().try_push(file->ring(), point, std::as_bytes(std::span(payload))));
      } else {
        REQUIRE(file->ring().try_push(point));
      }
      if (step % 2 == 1) {
        const RecordSpan taken = file->ring().committed(1);
        file->payloads().give_back(taken);
        file->ring().give_back(1);
      }
    }
    file->counters().no_disk_space.store(195'104);
  }
  return read_bytes(path);
}

StoredRing ring_of(std::string bytes) {
  return StoredRing(StoredFile::of_bytes("ring", std::move(bytes)));
}

template <typename T>
std::string with(std::string bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
  return bytes;
}

constexpr std::size_t kHeadAt = offsetof(RingFileHeader, ring) + offsetof(RingState, head);
constexpr std::size_t kTailAt = offsetof(RingFileHeader, ring) + offsetof(RingState, tail);
std::size_t slot_at(std::uint64_t position) {
  return kRingFileHeaderBytes + (position % kCapacity) * sizeof(Record);
}

// All there is, by as many calls as it takes.
StoredRecords all_of(const StoredRing& ring) {
  StoredRecords all;
  for (std::uint64_t position = ring.tail(); position < ring.head();) {
    StoredRecords part = ring.read(position, 7, 300, ring.names());
    REQUIRE(!part.records.empty());
    for (Record& record : part.records) {
      REQUIRE(record.sequence == ++position);
      record.payload_offset += all.payloads.size();
      all.records.push_back(record);
    }
    all.payloads += part.payloads;
    all.cut_off += part.cut_off;
    for (std::size_t i = 0; i < kRecordFaults; ++i) all.faults[i] += part.faults[i];
  }
  REQUIRE(all.records.size() <= ring.capacity());
  return all;
}

// Whether all that is no gap is what was logged.
bool is_right(const StoredRecords& all) {
  for (const Record& record : all.records) {
    if (record.kind == RecordKind::kSkipped) continue;
    const auto step = static_cast<std::int64_t>(record.sequence) - 1;
    if (record.step != step || record.value != static_cast<double>(step)) return false;
    if (record.kind != RecordKind::kEvent) continue;
    const auto bytes =
        PayloadSpan{reinterpret_cast<const std::byte*>(all.payloads.data()), all.payloads.size()}
            .of(record);
    if (std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) != payload_of(step))
      return false;
  }
  return true;
}

std::uint64_t points_of(const StoredRecords& all) {
  std::uint64_t count = 0;
  for (const Record& record : all.records) count += record.kind != RecordKind::kSkipped;
  return count;
}

std::string refusal(const std::string& bytes) {
  try {
    ring_of(bytes);
  } catch (const StoredFileError& error) {
    return error.what();
  }
  return "";
}

TEST_SUITE("stored_ring") {
  TEST_CASE(
      "a dead process' points, payloads, strings and drop counters come out as they went in") {
    const StoredRing ring = ring_of(dead_ring());
    CHECK(ring.tail() == 50);
    CHECK(ring.head() == 100);
    CHECK(ring.problem().empty());
    CHECK(ring.counters().no_disk_space == 195'104);
    const StoredRecords all = all_of(ring);
    CHECK(points_of(all) == 50);
    CHECK(is_right(all));
    CHECK(all.cut_off == 0);
    StoredNames names = ring.names();
    CHECK(names.text(1) == "loss");
    CHECK(names.text(2) == "runs/a");
    CHECK(names.text(3).empty());
  }

  TEST_CASE("a bit flipped in head or tail passes over no point and makes none") {
    const std::string good = dead_ring();
    for (int bit = 0; bit < 41; ++bit) {
      for (const std::size_t place : {kHeadAt, kTailAt}) {
        CAPTURE(bit);
        CAPTURE(place == kHeadAt);
        std::uint64_t word;
        std::memcpy(&word, good.data() + place, sizeof(word));
        const StoredRing ring = ring_of(with(good, place, word ^ (std::uint64_t{1} << bit)));
        const StoredRecords all = all_of(ring);
        CHECK(is_right(all));
        std::set<std::uint64_t> found;
        for (const Record& record : all.records) {
          if (record.kind != RecordKind::kSkipped) found.insert(record.sequence - 1);
        }
        // A tail that is a little too high is none that can be told from a right one.
        const bool is_plausible_tail = place == kTailAt && ring.problem().empty();
        for (std::uint64_t p = is_plausible_tail ? ring.tail() : 50; p < 100; ++p) {
          CHECK(found.contains(p));
        }
      }
    }
  }

  TEST_CASE("head and tail without a record to tell of them are refused") {
    TempDir dir;
    {
      RingFile::create(dir.file("ring"), kCapacity);
    }
    const std::string fresh = read_bytes(dir.file("ring"));
    CHECK(ring_of(fresh).head() == 0);
    CHECK(refusal(with(fresh, kTailAt, std::uint64_t{9})).find("holds no record") !=
          std::string::npos);
  }

  TEST_CASE("a record with a fault is counted under it, and no sink is given it") {
    const std::string good = dead_ring();
    const auto fault = [&](std::uint64_t position, std::size_t offset, auto value) {
      const StoredRecords all = all_of(ring_of(with(good, slot_at(position) + offset, value)));
      CHECK(points_of(all) == 49);
      CHECK(is_right(all));
      for (std::size_t i = 0; i < kRecordFaults; ++i) {
        if (all.faults[i] == 1) return static_cast<RecordFault>(i);
      }
      return RecordFault::kNone;
    };
    const std::uint32_t huge = 0xffffffff;
    CHECK(fault(71, offsetof(Record, tag_id), huge) == RecordFault::kName);
    CHECK(fault(71, offsetof(Record, tag_id), std::uint32_t{3}) == RecordFault::kName);
    CHECK(fault(71, offsetof(Record, tag_id), std::uint32_t{0}) == RecordFault::kName);
    CHECK(fault(71, offsetof(Record, writer_id), huge) == RecordFault::kName);
    CHECK(fault(71, offsetof(Record, kind), std::uint16_t{32}) == RecordFault::kKind);
    CHECK(fault(71, offsetof(Record, kind), std::uint16_t{4}) == RecordFault::kKind);
    CHECK(fault(71, offsetof(Record, kind), std::uint16_t{2}) == RecordFault::kPayload);
    CHECK(fault(71, offsetof(Record, flags), std::uint16_t{32}) == RecordFault::kFlags);
    CHECK(fault(70, offsetof(Record, payload_offset), ~std::uint64_t{0}) == RecordFault::kPayload);
    CHECK(fault(70, offsetof(Record, payload_size), ~std::uint64_t{0}) == RecordFault::kPayload);
    CHECK(fault(70, offsetof(Record, payload_size), RingFile::kLeastPayloadBytes + 1) ==
          RecordFault::kPayload);
  }

  TEST_CASE("a slot whose sequence is another one is a call that was cut off") {
    const StoredRecords all =
        all_of(ring_of(with(dead_ring(), slot_at(71), std::uint64_t{71 + 1 - kCapacity})));
    CHECK(points_of(all) == 49);
    CHECK(all.cut_off == 1);
    CHECK(is_right(all));
  }

  TEST_CASE("payloads take the arena's size at most, however large each says it is") {
    std::string bytes = dead_ring();
    for (std::uint64_t position = 50; position < 100; ++position) {
      bytes = with(bytes, slot_at(position) + offsetof(Record, kind), std::uint16_t{3});
      bytes = with(bytes, slot_at(position) + offsetof(Record, flags), std::uint16_t{0});
      bytes = with(bytes, slot_at(position) + offsetof(Record, payload_offset), std::uint64_t{0});
      bytes = with(bytes, slot_at(position) + offsetof(Record, payload_size),
                   RingFile::kLeastPayloadBytes);
    }
    const StoredRecords all = all_of(ring_of(bytes));
    CHECK(points_of(all) == 1);
    CHECK(all.payloads.size() <= RingFile::kLeastPayloadBytes);
  }

  TEST_CASE("a lock word with a live pid, and waiters, keep nobody waiting") {
    std::string bytes = dead_ring();
    const std::size_t tags = offsetof(RingFileHeader, tags) + offsetof(TagTableState, lock_pid);
    bytes = with(bytes, tags, current_pid());
    const std::size_t arena =
        offsetof(RingFileHeader, payloads) + offsetof(PayloadArenaState, lock_pid);
    bytes = with(bytes, arena, current_pid());
    CHECK(points_of(all_of(ring_of(bytes))) == 50);
  }

  TEST_CASE("what is no ring, of another version or too short is refused with words") {
    const std::string good = dead_ring();
    const auto says = [&](const std::string& bytes, const char* words) {
      const std::string text = refusal(bytes);
      CAPTURE(text);
      CHECK(text.find(words) != std::string::npos);
    };
    says("", "not the ring");
    says(good.substr(0, 100), "not the ring");
    says(std::string(8192, 'x'), "not the ring");
    says(good.substr(0, 4096 + 100), "shorter than its header says");
    const std::size_t version = offsetof(RingFileHeader, record_version);
    says(with(good, version, kRecordVersion + 1), "newer version of tracelet");
    says(with(good, version, kRecordVersion - 1), "older version of tracelet");
    const std::size_t capacity = offsetof(RingFileHeader, capacity);
    for (const std::uint64_t wrong : {0ULL, 63ULL, 1ULL << 37, 1ULL << 63, ~0ULL}) {
      says(with(good, capacity, wrong), "shorter than its header says");
    }
    const std::size_t payloads = offsetof(RingFileHeader, payload_bytes);
    for (const std::uint64_t wrong : {0ULL, 7ULL, 1ULL << 41, ~0ULL}) {
      says(with(good, payloads, wrong), "shorter than its header says");
    }
  }

  TEST_CASE("a link, a folder and a FIFO are not opened") {
    TempDir dir;
    write_bytes(dir.file("ring"), dead_ring());
    CHECK(StoredRing::open(dir.file("ring")).head() == 100);
    std::filesystem::create_symlink(dir.file("ring"), dir.file("link"));
    CHECK_THROWS_AS(StoredRing::open(dir.file("link")), std::system_error);
    std::filesystem::create_directory(dir.file("folder"));
    CHECK_THROWS_AS(StoredRing::open(dir.file("folder")), std::system_error);
    REQUIRE(mkfifo(dir.file("fifo").c_str(), 0600) == 0);
    CHECK_THROWS_AS(StoredRing::open(dir.file("fifo")), std::system_error);
    CHECK_THROWS_AS(StoredRing::open(dir.file("none")), std::system_error);
  }

  TEST_CASE(
      "whatever bytes are flipped, no value is wrong, and encoders and fold take what is left") {
    const std::string good = dead_ring();
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < testing::repeated(300); ++round) {
      std::string bytes = good;
      const std::size_t used = kRingFileHeaderBytes + kCapacity * sizeof(Record);
      for (int i = 0; i < 40; ++i) {
        // Words that ids, sizes and positions are damaged to; not a value or a step, which have no
        // checksum in the ring.
        const std::size_t place = random() % 4 == 0 ? random() % 512 : random() % used;
        const bool is_data = place >= kRingFileHeaderBytes && place % 64 >= 8 && place % 64 < 32;
        if (!is_data) bytes[place] = static_cast<char>(random());
      }
      try {
        const StoredRing ring = ring_of(bytes);
        const StoredRecords all = all_of(ring);
        const RecordSpan span{all.records.data(), all.records.size()};
        const PayloadSpan payloads{reinterpret_cast<const std::byte*>(all.payloads.data()),
                                   all.payloads.size()};
        Fold fold;
        for (const std::uint32_t id : fold.undefined_tags(span)) {
          fold.define(id, {.every_steps = 10});
        }
        std::vector<Record> folded;
        fold.apply(span, folded);
        fold.flush(folded);
        JsonLinesEncoder encoder("\"task\"");
        for (const Record& record : encoder.undefined_series(span)) {
          encoder.define(record.writer_id, record.tag_id, record.kind, "\"m\"", "\"v\"");
        }
        std::string lines;
        encoder.encode_lines(span, payloads, 1 << 20, lines);
      } catch (const StoredFileError&) {
        continue;
      }
    }
  }

  TEST_CASE("encoders and fold survive an id that none has checked") {
    Record record{};
    record.sequence = 1;
    record.kind = RecordKind::kScalar;
    record.tag_id = 0xffffffff;
    record.writer_id = 2;
    const RecordSpan span{&record, 1};
    Fold fold;
    CHECK(fold.undefined_tags(span).empty());
    fold.define(record.tag_id, {.every_steps = 10});
    std::vector<Record> folded;
    fold.apply(span, folded);
    CHECK(folded.size() == 1);
    JsonLinesEncoder encoder("\"task\"");
    CHECK(encoder.undefined_series(span).size() == 1);
    encoder.define(2, record.tag_id, record.kind, "\"m\"", "\"v\"");
    CHECK(encoder.undefined_series(span).empty());
    std::string lines;
    CHECK(encoder.encode_lines(span, {}, 1 << 20, lines).encoded == 1);
    TempDir dir;
    StoredNames names;
    names.add(1, "loss");
    EventFileSet files(&names);
    files.open(2, dir.file("events"), 0.0);
    const auto written = files.write(span, {});
    CHECK(written.count == 0);
    CHECK(written.unreadable == 1);
  }
}

}  // namespace
}  // namespace tracelet
