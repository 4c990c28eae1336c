// Rings to test with, and records that show when they are torn.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tracelet/platform.h"
#include "tracelet/ring.h"

namespace tracelet::testing {

struct RingInMemory {
  explicit RingInMemory(std::uint64_t capacity)
      : slots(capacity), ring(&state, slots.data(), capacity) {}

  RingState state{};
  std::vector<Record> slots;
  Ring ring;
};

// A ring whose state and slots lie in a mapped file, as those of several processes do.
struct RingInFile {
  static constexpr std::size_t kStateBytes = 4096;

  RingInFile(MappedFile mapped, std::uint64_t capacity)
      : file(std::move(mapped)),
        ring(reinterpret_cast<RingState*>(file.data()),
             reinterpret_cast<Record*>(file.data() + kStateBytes), capacity) {}
  static RingInFile create(const std::string& path, std::uint64_t capacity) {
    const std::size_t bytes = kStateBytes + capacity * sizeof(Record);
    return {MappedFile::create(path, bytes, bytes), capacity};
  }
  static RingInFile open(const std::string& path, std::uint64_t capacity) {
    return {MappedFile::open(path, kStateBytes + capacity * sizeof(Record)), capacity};
  }

  MappedFile file;
  Ring ring;
};

// A point each of whose fields follows from its tag and step.
inline Point point_of(std::uint32_t tag_id, std::int64_t step) {
  return {static_cast<double>(step) / 4,
          step,
          static_cast<double>(step + tag_id),
          tag_id,
          tag_id ^ 0x5a5aU,
          RecordKind::kScalar,
          static_cast<std::uint16_t>(step & 7)};
}
inline bool push(Ring& ring, std::uint32_t tag_id, std::int64_t step) {
  return ring.try_push(point_of(tag_id, step));
}

// Whether it is a record that push() wrote, and not pieces of two.
inline bool is_whole(const Record& record) {
  return record.value == static_cast<double>(record.step) / 4 &&
         record.wall_time_s == static_cast<double>(record.step + record.tag_id) &&
         record.writer_id == (record.tag_id ^ 0x5a5aU) && record.kind == RecordKind::kScalar &&
         record.flags == (record.step & 7) && record.producer_pid != 0;
}

}  // namespace tracelet::testing
